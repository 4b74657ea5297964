"""What metrics tell of the pools of upstream keys that a stack knows."""

from __future__ import annotations

from typing import Any

import pytest

from keyguard import ConfigurationError, Key, Keyguard, KeyPool, RateLimit
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock

MONEY = b'{"error": {"type": "insufficient_quota", "code": "insufficient_quota", "message": "Pay first."}}'


def a_pool(name: str = "openai", **settings: Any) -> KeyPool:
    keys = [Key("eu", "sk-secret-eu", group="org-a"), Key("spare", "sk-secret-spare", group="org-b", rank=1)]
    return KeyPool.openai(keys, name=name, limits={"org-a": {"rpm": 500}}, max_wait=0, **settings)


def test_answers_groups_limits_and_waiting_are_shown() -> None:
    clock = ManualClock()
    pool = a_pool(store=MemoryStore(clock=clock), clock=clock)
    guard = Keyguard(RateLimit("9/minute"), store="memory://", pools=[pool])
    metrics = guard.metrics()
    for status, body in ((200, b""), (429, MONEY)):
        with pool.acquire() as grant:
            grant.report(status, {}, body)
    clock.advance(2)
    text = metrics.render().body.decode()
    for line in (
        'keyguard_upstream_answers_total{cause="ok",pool="openai"} 1.0',
        'keyguard_upstream_answers_total{cause="billing",pool="openai"} 1.0',
        'keyguard_upstream_group_blocked{cause="billing",group="org-a",models="*",pool="openai"} 1.0',
        'keyguard_upstream_remaining{dimension="rpm",group="org-a",models="*",pool="openai"} 500.0',
        'keyguard_upstream_waiting{pool="openai"} 0.0',
    ):
        assert line in text.splitlines()
    assert "sk-" not in text
    assert "spare" not in text
    guard.close()


def test_opentelemetry_is_told_the_same() -> None:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    reader = InMemoryMetricReader()
    pool = a_pool()
    Keyguard(store="memory://", pools=[pool]).metrics().instrument(MeterProvider([reader]))
    with pool.acquire() as grant:
        grant.report(200, {})
    data: Any = reader.get_metrics_data()
    found = {
        (one.name, *sorted(point.attributes.values())): point.value
        for one in data.resource_metrics[0].scope_metrics[0].metrics
        for point in one.data.data_points
    }
    assert found["keyguard.upstream.answers", "ok", "openai"] == 1
    assert found["keyguard.upstream.waiting", "openai"] == 0
    assert found["keyguard.upstream.remaining", "*", "openai", "org-a", "rpm"] in (499, 500)


def test_what_cannot_be_a_stack_s_pools_is_refused_at_the_start() -> None:
    wrong: list[Any] = [["sk-secret"], "sk-secret", [Key("eu", "sk-secret")], a_pool()]
    for pools in wrong:
        with pytest.raises(ConfigurationError, match="pools is a list of KeyPool objects") as caught:
            Keyguard(store="memory://", pools=pools)
        assert "secret" not in str(caught.value)
    with pytest.raises(ConfigurationError, match="two pools are called 'openai': give them names"):
        Keyguard(store="memory://", pools=[a_pool(), a_pool()])


def test_making_instruments_asks_no_store() -> None:
    from opentelemetry.sdk.metrics import MeterProvider

    pool = a_pool()
    asked: list[object] = []
    pool.snapshot = lambda: asked.append(pool)
    Keyguard(store="memory://", pools=[pool]).metrics().instrument(MeterProvider())
    assert asked == []
