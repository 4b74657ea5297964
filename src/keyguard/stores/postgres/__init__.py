"""The store of many machines: PostgreSQL.

`store` is what the rest of keyguard sees. Behind it, on an event loop of its own (`loop`):

    decisions     what waits (`queue`), the transactions under way, and the connections; time and failures
    transaction   one transaction: locks, values, what is made of them, what is written (`names`, `schema`)
    connections   how one is opened, from what `urls` has read, and ended
    failures      what a failed transaction means for those who travelled in it
    upkeep        what is done beside: deleting what has expired, settling doubts
"""

from keyguard.stores.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
