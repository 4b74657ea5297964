"""A stack as a table: `guard.describe()` and `keyguard policies --app module:guard`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from keyguard import APIKeys, Concurrency, IPFilter, Keyguard, RateLimit, Request, Response
from keyguard.cli.command_line import main
from keyguard.policies import Policy, all_of, first_match, ip, method, path, plan, shadow

SHOP = """
from keyguard import APIKeys, IPFilter, Keyguard, RateLimit
from keyguard.policies import Policy, first_match, ip, path, plan

guard = Keyguard(
    IPFilter(deny=["203.0.113.0/24"]),
    APIKeys(),
    first_match(
        Policy("office", when=ip("10.0.0.0/8"), then=[]),
        Policy("gold", when=plan("gold") & path("/v1/*"), then=[RateLimit("9/minute", by="key", name="gold")]),
    ),
    RateLimit(plans={"free": "2/second", "pro": None}, default="free", name="plans"),
    store="memory://",
)

def made():
    return guard

class Shop:
    guard = guard
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shop_of_policies.py").write_text(SHOP)
    (tmp_path / "broken_of_policies.py").write_text("import no_such_module_of_policies")
    (tmp_path / "wrong_of_policies.py").write_text("from keyguard import *\nKeyguard(RateLimit('1/minute', by='key'))")
    (tmp_path / "raises_of_policies.py").write_text("raise LookupError('KEYS is not set')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in [name for name in sys.modules if name.endswith("_of_policies")]:
        monkeypatch.delitem(sys.modules, name)


def test_a_stack_is_described_in_the_order_in_which_guards_are_asked() -> None:
    def robots(request: Request) -> Response | None:
        return None

    guard = Keyguard(
        robots,
        all_of(
            Policy("writes", when=method("POST") | path("/w"), then=[RateLimit("1/minute; 9/day", paths=["/v1/*"])]),
            Policy("try", then=[IPFilter(deny=["192.0.2.1"])], shadow=True),
        ),
        shadow(Concurrency(3, methods=["PUT"], exempt=ip("10.0.0.0/8"))),
        store="memory://",
    )
    rows = guard.describe()
    assert [(row.order, row.kind, row.policy, row.chosen, row.shadow) for row in rows] == [
        (1, "function", "", "", False),
        (2, "RateLimit", "writes", "all", False),
        (3, "IPFilter", "try", "all", True),
        (4, "Concurrency", "", "", True),
    ]
    assert [row.when for row in rows] == [
        "",
        "(method('POST') | path('/w')) & path('/v1/*')",
        "",
        "method('PUT') & ~ip('10.0.0.0/8')",
    ]
    assert [row.limits for row in rows] == [(), ("1/minute", "9/day"), (), ("3 at a time",)]
    assert [row.by for row in rows] == ["", "ip", "", "ip"]
    text = str(rows).splitlines()
    assert text[0].split() == ["#", "POLICY", "GUARD", "KIND", "WHEN", "LIMITS", "BY", "MODE"]
    assert len(text) == 5


def test_what_needs_no_key_is_said_of_keys() -> None:
    guard = Keyguard(APIKeys(public=["/health", "/docs"]), store="memory://")
    assert [row.when for row in guard.describe()] == ["~path('/health', '/docs')"]


def test_a_policy_over_a_plan_that_no_limit_lists_is_noted() -> None:
    plans = RateLimit(plans={"free": "2/second", "pro": None}, default="free")
    one = Policy("gold", when=~plan("gold"), then=[RateLimit("9/minute", name="gold")])
    guard = Keyguard(APIKeys(), one, plans, store="memory://")
    (note,) = guard.describe().notes
    assert note == "policy 'gold' is about the plan 'gold', which no plans= of this stack lists: free, pro"
    assert Keyguard(APIKeys(), one, store="memory://").describe().notes == ()  # keys alone know plans then


def test_the_command_prints_the_table(shop: None, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("guard", "made", "Shop.guard"):
        assert main(["policies", "--app", f"shop_of_policies:{name}"]) == 0
        out, err = capsys.readouterr()
        lines = out.splitlines()
        assert lines[0].split()[:4] == ["#", "POLICY", "GUARD", "KIND"]
        assert len(lines) == 6
        assert "gold" in lines[4]
        assert "plan('gold') & path('/v1/*')" in lines[4]
        assert err.startswith("note: policy 'gold' is about the plan 'gold'")


def test_the_command_prints_json(shop: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policies", "--app", "shop_of_policies:guard", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["kind"] for row in found["guards"]] == ["IPFilter", "APIKeys", "nothing", "RateLimit", "RateLimit"]
    assert found["guards"][4]["limits"] == ["free/other plans: 2/second", "pro: no limit"]
    assert len(found["notes"]) == 1


@pytest.mark.parametrize(
    ("app", "why"),
    [
        ("shop_of_policies", "a module and a name"),
        ("shop-of:guard", "a module and a name"),
        ("nowhere_of_policies:guard", "no module 'nowhere_of_policies' here"),
        ("broken_of_policies:guard", "needs the module 'no_such_module_of_policies'"),
        ("wrong_of_policies:guard", "does not start: these guards need the identity"),
        ("raises_of_policies:guard", "cannot be imported: LookupError: KEYS is not set"),
        ("shop_of_policies:gard", "has no 'gard'; there is guard"),
        ("shop_of_policies:Shop", "is the class Shop, and no Keyguard"),
        ("shop_of_policies:path", "no Keyguard|raises"),
    ],
)
def test_what_is_no_stack_is_said_in_one_line(
    shop: None, capsys: pytest.CaptureFixture[str], app: str, why: str
) -> None:
    assert main(["policies", "--app", app]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(why, line), line


def test_the_command_needs_a_stack(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policies"]) == 1
    assert "--app module:guard" in capsys.readouterr().err


def test_an_app_that_runs_the_command_need_not_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    guard = Keyguard(first_match(Policy("a", then=[RateLimit("1/minute")])), store="memory://")
    assert main(["policies"], app=guard) == 0
    assert "1/minute" in capsys.readouterr().out
