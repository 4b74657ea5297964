"""The store of many machines: PostgreSQL.

`store` is what the rest of keyguard sees; `decisions` makes transactions; `schema` has the tables and statements.
"""

from keyguard.stores.postgres.store import PostgresStore as PostgresStore
