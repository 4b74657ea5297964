"""Choices of upstream keys by scripts: the same answers and the same bytes as in Python, in one trip each."""

from __future__ import annotations

import pytest
import redis

from keyguard.learnt import Dimension, group_key, id_of
from keyguard.ops import Acquire, Candidate, Grant, Learn, Report
from keyguard.stores.redis import RedisStore
from keyguard.testing.conformance.choosing import check_upstream
from keyguard.testing.conformance.comparing import twins
from tests.support.servers import RedisCluster, RedisServer

MINUTE = Dimension("requests", 60_000_000)


@pytest.mark.parametrize("which", ["valkey", "redis6", "cluster"])
def test_scripts_choose_and_learn_as_python_does(which: str, request: pytest.FixtureRequest) -> None:
    server: RedisServer | RedisCluster = request.getfixturevalue(which)
    with twins(RedisStore(server.url).scratch) as compared:
        check_upstream(compared, steps=150 if which == "cluster" else 1000)


def test_a_choice_a_rotation_and_a_report_are_one_trip_each(valkey: RedisServer) -> None:
    store = RedisStore(valkey.url, namespace="trips", timeout=1)
    groups = [Candidate(group_key("p", "*", name), (id_of(name),), ((MINUTE, 9),)) for name in "abcdefgh"]

    def rotate() -> Grant:
        granted = store.execute([Acquire(groups, {})])[0]
        refused = Report(groups[granted.candidate], granted, cause="exhausted", scope="model", wait=30_000_000)
        (other,) = store.execute([Acquire(groups, {}, reports=[refused])])
        store.execute([Learn([Report(groups[other.candidate], other)])])
        return other

    assert rotate().candidate == 1  # the server has learnt the scripts now
    with redis.Redis.from_url(valkey.url) as client:
        client.config_resetstat()
        other = rotate()
        commands = client.info("commandstats")
    assert other.candidate == 2
    assert commands["cmdstat_evalsha"]["calls"] == 3
    assert not commands.keys() & {"cmdstat_eval", "cmdstat_multi", "cmdstat_watch", "cmdstat_script"}
    store.close()
