"""A value in the store that cannot be read, because something else wrote it, concerns its own caller alone."""

from __future__ import annotations

import pytest
import redis

from keyguard import Keyguard, RateLimit
from keyguard.stores.redis import RedisStore
from keyguard.testing import play
from tests.support.servers import RedisServer


@pytest.mark.parametrize("how", ["another type", "bytes of another form"])
def test_one_damaged_counter_concerns_its_caller_alone(how: str, valkey: RedisServer) -> None:
    namespace = f"damaged-{len(how)}"
    store = RedisStore(valkey.url, namespace=namespace, timeout=1)
    guard = Keyguard(RateLimit("3/hour", by="ip", if_store_fails="refuse"), store=store)
    assert play(guard, client="192.0.2.1").status == 200
    with redis.Redis.from_url(valkey.url) as client:
        (name,) = client.scan_iter(f"{namespace}:c:*")  # the stack's own record is no counter
        field = next(field for field in client.hkeys(name) if b"rl:" in field)
        if how == "another type":
            client.delete(name)
            client.set(name, b"x")
        else:
            client.hset(name, field, b"\xff\xff\xff")
    answers = []
    for _ in range(5):
        answers.append(play(guard, client="192.0.2.1").status)
        assert play(guard, client=f"192.0.2.{10 + len(answers)}").status == 200
    assert answers == [503] * 5, "what was spent is not known"
    assert guard.health.partial
    store.close()
