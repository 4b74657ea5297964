"""What each profile of fields tells, of each kind of limit: golden files, in `golden/`.

`python -m tests.guards.rate_limit.test_profiles` writes them; read what has changed then.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import http_sf
import pytest

from keyguard import APIKeys, ConfigurationError, Identity, Keyguard, RateLimit, credits, quota, smooth
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock, play

GOLDEN = Path(__file__).parent / "golden"
PROFILES: dict[str, dict[str, Any]] = {
    "draft-11": {"headers": "draft-11"},
    "draft-11, binding": {"headers": "draft-11", "tell": "binding"},
    "draft-next": {"headers": "draft-next"},
    "draft-next, binding": {"headers": "draft-next", "tell": "binding"},
    "x-ratelimit": {"headers": "x-ratelimit"},
    "github": {"headers": "github"},
    "draft-11 and github": {"headers": ["draft-11", "github"]},
    "off": {"headers": None},
}
LIMITS: dict[str, tuple[Any, ...]] = {
    "a window": ("2/minute",),
    "even pacing": (smooth("2/minute", burst=2),),
    "a quota": (quota("2/month", tz="Europe/Berlin", anchor=15),),
    "credits with a refill": (credits(2, refill=quota("1/day")),),
    "credits without one": (credits(2),),
    "several": ("3/minute", quota("5/month"), credits(2)),
}


def fields(limits: tuple[Any, ...], settings: dict[str, Any]) -> list[tuple[int, list[tuple[str, str]]]]:
    """What three requests are told, one minus a microsecond after the other: the last one is refused."""
    clock = ManualClock()
    limit = RateLimit(*limits, by="key", name="api", **settings)
    keys = APIKeys(lookup=lambda key: Identity(key, key_id=key))
    stack = Keyguard(keys, limit, store=MemoryStore(clock=clock), clock=clock)
    answers = []
    for _ in range(3):
        answers.append(play(stack, headers={"X-API-Key": "ada"}))
        clock.advance(timedelta(microseconds=999_999))
    told = ("retry-after", "ratelimit", "ratelimit-policy", "x-ratelimit-")
    return [
        (answer.status, [pair for pair in answer.headers if pair[0].lower().startswith(told)]) for answer in answers
    ]


def written(profile: str) -> str:
    text = ""
    for name, limits in LIMITS.items():
        text += f"## {name}\n\n"
        for status, told in fields(limits, PROFILES[profile]):
            text += f"{status}\n" + "".join(f"{name}: {value}\n" for name, value in told) + "\n"
    return text


def file_of(profile: str) -> Path:
    return GOLDEN / f"{profile.replace(', ', '-').replace(' ', '-')}.txt"


@pytest.mark.parametrize("profile", PROFILES)
def test_the_fields_are_those_of_the_golden_file(profile: str) -> None:
    assert written(profile) == file_of(profile).read_text()


@pytest.mark.parametrize("profile", [name for name in PROFILES if name.startswith("draft")])
def test_a_parser_of_structured_fields_reads_them(profile: str) -> None:
    for name, limits in LIMITS.items():
        for _, told in fields(limits, PROFILES[profile]):
            values = dict(told)
            policies = http_sf.parse(values["RateLimit-Policy"].encode(), tltype="list")
            states = http_sf.parse(values["RateLimit"].encode(), tltype="list")
            assert len(policies) == len(limits)
            assert len(states) == (1 if "binding" in profile else len(limits))
            of = dict(policies)
            for policy, parameters in states:
                assert isinstance(policy, str)
                assert set(of[policy]) <= {"q", "w"}
                assert set(parameters) <= ({"a", "w"} if "next" in profile else {"r", "t"})
                assert all(
                    type(number) is int and number >= 0 for number in [*of[policy].values(), *parameters.values()]
                )
                assert of[policy].get("w") != 0
            if name in ("a quota", "credits without one"):
                assert "w" not in policies[0][1]


@pytest.mark.parametrize("profile", ["x-ratelimit", "github", "draft-11 and github"])
def test_the_older_fields_are_items_that_it_reads_too(profile: str) -> None:
    for limits in LIMITS.values():
        for _, told in fields(limits, PROFILES[profile]):
            items = {
                name: http_sf.parse(value.encode(), tltype="item")[0]
                for name, value in told
                if name.startswith("X-RateLimit-")
            }
            resource = items.pop("X-RateLimit-Resource", None)
            assert str(resource) == ("None" if profile == "x-ratelimit" else "api")
            assert {"X-RateLimit-Limit", "X-RateLimit-Remaining"} <= set(items)
            assert all(type(number) is int and number >= 0 for number in items.values())


def test_fields_of_github_end_at_the_moment_at_which_the_quota_begins_anew() -> None:
    (_, told), *_ = fields(LIMITS["a quota"], PROFILES["github"])
    _, end = quota("2/month", tz="Europe/Berlin", anchor=15).present(ManualClock()())
    assert dict(told)["X-RateLimit-Reset"] == str(end // 1_000_000)


@pytest.mark.parametrize(
    ("inner", "outer", "told"),
    [
        ("github", "x-ratelimit", {"limit": "5", "used": None, "resource": None}),
        ("x-ratelimit", "github", {"limit": "5", "used": "1", "resource": "outer"}),
        ("github", "github", {"limit": "5", "used": "1", "resource": "outer"}),
    ],
)
def test_of_several_layers_the_one_with_least_left_is_told_whole(
    inner: str, outer: str, told: dict[str, str | None]
) -> None:
    for few, many in (("inner", "outer"), ("outer", "inner")):
        clock = ManualClock()
        options: dict[str, Any] = {"store": MemoryStore(clock=clock), "clock": clock}
        rates = {few: "5/hour", many: "9/minute"}
        profiles = {"inner": inner, "outer": outer}
        limits = [RateLimit(rates[place], name=place, headers=profiles[place]) for place in ("outer", "inner")]  # type: ignore[arg-type]
        answer = play(Keyguard(*limits, **options))
        assert answer.header("X-RateLimit-Limit") == "5"
        if few == "outer":
            for name, value in told.items():
                assert answer.header(f"X-RateLimit-{name}") == value
        elif inner == "github":
            assert (answer.header("X-RateLimit-Used"), answer.header("X-RateLimit-Resource")) == ("1", "inner")


def test_what_an_app_tells_of_less_stays() -> None:
    clock = ManualClock()
    stack = Keyguard(RateLimit("9/minute", headers="github"), store=MemoryStore(clock=clock), clock=clock)
    own = {"X-RateLimit-Limit": "5", "X-RateLimit-Remaining": "3", "X-RateLimit-Reset": str(clock() // 10**6 + 7)}

    def app(environ: Any, start_response: Any) -> list[bytes]:
        start_response("200 OK", [*own.items(), ("Content-Length", "0")])
        return []

    heads: list[Any] = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "REMOTE_ADDR": "192.0.2.1", "wsgi.url_scheme": "http"}
    b"".join(stack.wsgi(app)(environ, lambda status, fields, exc_info=None: heads.append(dict(fields))))
    assert {name: heads[0].get(name) for name in own} == own


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"headers": "draft-12"}, "'draft-11' or 'draft-next' or 'x-ratelimit' or 'github'"),
        ({"headers": ["github", "x-ratelimit"]}, "'x-ratelimit' and 'github' have the same names: choose one"),
        ({"headers": ["draft-next", "draft-11"]}, "'draft-11' and 'draft-next' have the same names: choose one"),
        ({"tell": "least"}, "'all' or 'binding'"),
        ({"tell": None}, "'all' or 'binding'"),
    ],
)
def test_profiles_that_there_are_not(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        RateLimit("5/minute", **settings)


if __name__ == "__main__":
    for one in PROFILES:
        file_of(one).write_text(written(one))
