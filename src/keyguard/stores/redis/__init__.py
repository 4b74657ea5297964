"""The store of many machines: Redis, Valkey, their sentinels and clusters.

`store` is what the rest of keyguard sees; `wire` turns operations into calls of Lua scripts, without I/O (`calls`);
`line` and `links` carry them over redis-py's connections; `cluster` finds the node; `servers` reads URLs.
"""

from keyguard.stores.redis.store import RedisStore

__all__ = ["RedisStore"]
