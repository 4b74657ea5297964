"""The store of many machines: Redis, Valkey, their sentinels and clusters.

`store` is what the rest of keyguard sees. Behind it:

    encoding         operations as calls of Lua scripts (`calls`, `demands`, `names`, `scripts`), without I/O
    node             one server: calls in, replies out, over the connections of threads and of each event loop
    sync_connection  those of threads (`opening`); `async_connection` those of event loops (`pipe`)
    cluster          which node holds a slot
    url              what a URL says of servers, sentinels and passwords (`credentials`)
    listing          what stands on the servers, for operators
    pulse, eviction  what is known of a server: whether it answers, and whether it throws counters out
"""

from keyguard.stores.redis.store import RedisStore

__all__ = ["RedisStore"]
