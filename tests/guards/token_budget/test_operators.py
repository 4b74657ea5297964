"""What operators and handlers see of a budget: limits, reports of usage, why a caller is refused, overrides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import keyguard.asgi
import keyguard.wsgi
from keyguard import APIKeys, ConfigurationError, Keyguard, RateLimit, TokenBudget, Usage, path
from keyguard.policies import Policy, first_match
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock
from tests.guards.token_budget.models import CHAT, Model, Reply, said, stream, used, whole
from tests.support.harness import Ask, ask_asgi, ask_wsgi


class Gateway:
    """A stack with keys and a budget, and a key of ada's."""

    def __init__(self, world: str, folder: Path, model: Model, *others: Any, **settings: Any) -> None:
        self.clock = ManualClock()
        settings = {"by": "subject", "name": "tokens", **settings}
        rates = () if "plans" in settings else ("1000/day",)
        self.budget = TokenBudget(*rates, **settings)
        self.guard = Keyguard(
            APIKeys(public=["/open"]),
            self.budget,
            *others,
            store=f"sqlite:///{folder}/k.db?timeout=5",
            clock=self.clock,
            usage=Usage(),
        )
        self.model = model
        self.world = world
        self.key = self.guard.keys.issue("ada", plan="small").key.reveal()
        self.app: Any = getattr(self.guard, world)(getattr(model, world))

    def ask(self, body: Any = None, target: str = "/v1/chat/completions", method: str = "POST") -> Any:
        data = json.dumps({**CHAT, "max_tokens": 100} if body is None else body).encode()
        fields = (("content-length", str(len(data))), ("x-api-key", self.key))
        send = ask_asgi if self.world == "asgi" else ask_wsgi
        return send(self.app, Ask(target, fields, method=method, body=data), lint=False)

    def use(self) -> tuple[int, int, int]:
        (use,) = [use for use in self.guard.limits.peek("ada") if use.name.startswith("tokens")]
        return use.spent, use.held, use.limit


@pytest.fixture(params=["asgi", "wsgi"])
def world(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_reports_tell_of_tokens_as_the_counters_do(world: str, tmp_path: Path) -> None:
    site = Gateway(world, tmp_path, Model(stream(said("a"), used(100, 200)), whole(used(30, 70)), whole({}, 500)))
    for _ in range(3):
        site.ask({**CHAT, "max_tokens": 100, "stream": True})
    assert site.use() == (400, 0, 1000)
    site.guard.usage.flush()
    assert [*site.guard.usage.of("ada").units.values()] == [400]


def test_fields_tell_what_is_left_in_tokens(world: str, tmp_path: Path) -> None:
    site = Gateway(world, tmp_path, Model(whole(used(30, 70))), mode="hard")
    answer = site.ask()
    held = len(site.model.asked[0]) + 100
    assert answer.get("ratelimit-policy") == '"tokens:1000/day";q=1000;qu="tokens";w=86400'
    assert answer.get("ratelimit").startswith(f'"tokens:1000/day";r={1000 - held};t=')
    answer = site.ask({**CHAT, "max_tokens": 900})
    assert answer.status == 429
    assert answer.get("ratelimit").startswith('"tokens:1000/day";r=0;t=')
    site = Gateway(world, tmp_path, Model(whole(used(30, 70))), headers="x-ratelimit")
    assert site.ask().get("x-ratelimit-limit") == "1000"


def test_who_is_refused_is_told_why(world: str, tmp_path: Path) -> None:
    site = Gateway(world, tmp_path, Model(whole(used(300, 700))))
    assert [site.ask().status for _ in range(2)] == [200, 429]
    site.guard.usage.flush()
    found = site.guard.why("ada")
    assert "tokens:1000/day" in str(found)
    site.guard.limits.grant("ada", 500, limit="tokens")
    assert site.ask().status == 200


def test_plans_exemptions_and_overrides_are_those_of_limits(world: str, tmp_path: Path) -> None:
    plans = {"small": "500/day", "none": 0, "free": None}
    site = Gateway(world, tmp_path, Model(whole(used(300, 700))), plans=plans, default="none", exempt=path("/open"))
    assert [site.ask().status for _ in range(2)] == [200, 429]
    assert site.ask(target="/open").status == 200
    assert site.ask(method="GET").status == 200
    site.guard.limits.set("ada", 7, limit="tokens")
    assert site.ask().status == 200


def test_what_a_guard_further_in_refuses_costs_nothing(world: str, tmp_path: Path) -> None:
    site = Gateway(world, tmp_path, Model(whole(used(3, 7))), RateLimit("1/day", by="subject", name="requests"))
    assert [site.ask().status for _ in range(2)] == [200, 429]
    assert site.use() == (10, 0, 1000)


def test_handlers_charge_it_too_and_are_told_of_it(world: str, tmp_path: Path) -> None:
    seen: list[Any] = []

    class Handling(Model):
        def take(self, body: bytes, head: dict[str, str]) -> Reply:
            site.guard.charge(5, "tokens")
            seen.append([(limit.name, limit.limit) for limit in site.guard.here().limits])
            return super().take(body, head)

    site = Gateway(world, tmp_path, Handling(whole(used(3, 7))))
    assert site.ask().status == 200
    assert seen == [[("tokens:1000/day", 1000)]]
    assert site.use() == (15, 0, 1000)


def test_a_budget_may_belong_to_a_policy_or_be_a_layer(world: str, tmp_path: Path) -> None:
    budget = TokenBudget("1000/day", by="ip", name="tokens")
    policies = first_match(Policy("chat", when=path("/v1/*"), then=[budget]))
    stack = Keyguard(policies, store="memory://")
    model = Model(stream(said("a"), used(300, 700)))
    layer = getattr(keyguard, world).TokenBudget
    for app in (
        getattr(stack, world)(getattr(model, world)),
        layer(getattr(model, world), "1000/day", by="ip", store="memory://"),
    ):
        data = json.dumps({**CHAT, "stream": True}).encode()
        ask = Ask("/v1/chat/completions", (("content-length", str(len(data))),), method="POST", body=data)
        send = ask_asgi if world == "asgi" else ask_wsgi
        answers = [send(app, ask, lint=False) for _ in range(2)]
        assert [answer.status for answer in answers] == [200, 429]
        assert b"usage" not in answers[0].body


def test_one_does_not_stand_in_stacks_with_different_stores() -> None:
    budget = TokenBudget("1000/day", by="ip")
    Keyguard(budget, store=MemoryStore())
    with pytest.raises(ConfigurationError, match="two stacks with different stores"):
        Keyguard(budget, store=MemoryStore())


def test_a_test_of_an_app_begins_with_nothing_learnt(world: str, tmp_path: Path) -> None:
    site = Gateway(world, tmp_path, Model(whole(used(3, 7))))
    site.ask()
    with site.guard.testing():
        assert site.budget._recent.most("ada", 50) == 50
    assert site.use() == (10, 0, 1000)
