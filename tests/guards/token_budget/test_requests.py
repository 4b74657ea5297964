"""What a request reserves, and what the app gets of it: one table through both worlds."""

from __future__ import annotations

import json
from typing import Any

import pytest

from keyguard import APIKeys, ConfigurationError, Keyguard, TokenBudget
from keyguard.policies import shadow
from tests.guards.token_budget.models import CHAT, Model, Reply, Site, said, stream, used, whole

FREE = whole({"usage": {"total_tokens": 0}})


@pytest.fixture(params=["asgi", "wsgi"])
def world(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def reserved(world: str, body: Any, path: str = "/v1/chat/completions", **settings: Any) -> int | None:
    """The units that are held while the app runs; `None` if it is not reached."""
    held: list[int] = []

    class Looking(Model):
        def take(self, body: bytes, head: dict[str, str]) -> Reply:
            held.append(site.use[1])
            return super().take(body, head)

    site = Site(world, Looking(FREE), "1000000/day", **settings)
    site.ask(body, path)
    assert site.use == (0, 0)
    return held[0] if held else None


def size(body: Any) -> int:
    return len(json.dumps(body).encode())


SAID: dict[str, tuple[dict[str, Any], int]] = {
    "max_tokens": ({"max_tokens": 100}, 100),
    "max_completion_tokens": ({"max_completion_tokens": 100}, 100),
    "max_output_tokens": ({"max_output_tokens": 100}, 100),
    "the greatest of them": ({"max_tokens": 100, "max_completion_tokens": 200}, 200),
    "one that is null": ({"max_tokens": None, "max_completion_tokens": 200}, 200),
    "none of them": ({}, 4096),
    "nothing": ({"max_tokens": 0}, 0),
    "several answers": ({"max_tokens": 100, "n": 3}, 300),
    "the best of several": ({"max_tokens": 100, "n": 2, "best_of": 5}, 500),
    "null answers": ({"max_tokens": 100, "n": None}, 100),
}


@pytest.mark.parametrize("case", SAID)
def test_hard_mode_reserves_the_most_that_a_request_can_cost(world: str, case: str) -> None:
    members, output = SAID[case]
    assert reserved(world, {**CHAT, **members}, mode="hard") == size({**CHAT, **members}) + output


@pytest.mark.parametrize("case", SAID)
def test_soft_mode_reserves_the_same_until_costs_are_known_with_four_bytes_a_token(world: str, case: str) -> None:
    members, output = SAID[case]
    assert reserved(world, {**CHAT, **members}) == -(-size({**CHAT, **members}) // 4) + output


def test_a_function_of_yours_counts_the_input(world: str) -> None:
    def count(body: Any) -> int:
        return len(body["messages"]) * 7

    for mode in ("soft", "hard"):
        assert reserved(world, {**CHAT, "max_tokens": 9}, mode=mode, input_tokens=count) == 16


BAD: dict[str, tuple[Any, int, str]] = {
    "max_tokens below nothing": ({**CHAT, "max_tokens": -1}, 400, "max_tokens is a whole number, 0 or more."),
    "max_tokens as text": ({**CHAT, "max_tokens": "100"}, 400, "max_tokens is a whole number"),
    "max_tokens with a fraction": ({**CHAT, "max_tokens": 1.5}, 400, "max_tokens is a whole number"),
    "max_tokens that is true": ({**CHAT, "max_tokens": True}, 400, "max_tokens is a whole number"),
    "max_tokens that is a list": ({**CHAT, "max_tokens": [1]}, 400, "max_tokens is a whole number"),
    "max_tokens without end": (b'{"messages": [], "max_tokens": 1e400}', 400, "max_tokens is a whole number"),
    "max_tokens that is no number": (b'{"messages": [], "max_tokens": NaN}', 400, "not an object of JSON"),
    "max_tokens of 5000 digits": (b'{"max_tokens": 1%s}' % (b"0" * 5000), 400, "not an object of JSON"),
    "max_tokens twice": (b'{"max_tokens": 1, "max_tokens": 9000}', 400, "not an object of JSON"),
    "no answers": ({**CHAT, "n": 0}, 400, "n is a whole number, 1 or more."),
    "answers below nothing": ({**CHAT, "n": -3}, 400, "n is a whole number"),
    "no JSON": (b"hello", 400, "not an object of JSON"),
    "no object": (b"[1]", 400, "not an object of JSON"),
    "nothing": (b"", 400, "not an object of JSON"),
    "no UTF-8": ('{"a": "ü"}'.encode("latin-1"), 400, "not an object of JSON"),
    "deep JSON": (b"[" * 100_000, 400, "not an object of JSON"),
    "deep JSON inside": (b'{"messages":' * 20_000, 400, "not an object of JSON"),
    "a long body": ({**CHAT, "more": "x" * 1024 * 1024}, 413, "more than 1048576 bytes"),
}


@pytest.mark.parametrize("case", BAD)
def test_hard_mode_refuses_what_cannot_be_reckoned(world: str, case: str) -> None:
    body, status, detail = BAD[case]
    site = Site(world, Model(FREE), mode="hard")
    answer = site.ask(body)
    assert (answer.status, site.model.asked, site.use) == (status, [], (0, 0))
    told = json.loads(answer.body)
    assert detail in told["detail"]
    assert told["cause"] == "request"


@pytest.mark.parametrize("case", BAD)
def test_soft_mode_reckons_it_by_its_length(world: str, case: str) -> None:
    body = BAD[case][0]
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert reserved(world, data) == -(-len(data) // 4) + 4096


def test_a_compressed_body_is_not_read(world: str) -> None:
    for mode, status in (("hard", 415), ("soft", 200)):
        assert Site(world, Model(FREE), mode=mode).ask(CHAT, content_encoding="gzip").status == status


def test_what_is_never_admitted_is_refused_for_good_and_in_soft_mode_reckoned_as_all(world: str) -> None:
    for most in (10_000, 10**30):
        site = Site(world, Model(FREE), mode="hard")
        answer = site.ask({**CHAT, "max_tokens": most, "n": 10**12})
        assert (answer.status, answer.get("retry-after")) == (429, None)
        assert "more than 'tokens:10000/day' ever allows" in json.loads(answer.body)["detail"]
        assert site.model.asked == []
    held = reserved(world, {**CHAT, "max_tokens": 10**30, "n": 10**12})
    assert held == 1_000_000


# -- the app's request ------------------------------------------------------------------------------------------------


def test_a_request_that_says_all_reaches_the_app_byte_for_byte(world: str) -> None:
    body = b' {"max_tokens" : 1E1,"max_tokens2":1.50, "messages":[]}\n'.replace(b"1E1", b"10")
    for mode in ("soft", "hard"):
        site = Site(world, Model(FREE), mode=mode)
        site.ask(body)
        assert site.model.asked == [body]
        assert site.model.heads[0]["content-length"] == str(len(body))


LIMITS = {
    "/v1/chat/completions": (CHAT, "max_completion_tokens"),
    "/v1/completions": ({"prompt": "hi"}, "max_tokens"),
    "/v1/messages": (CHAT, "max_tokens"),
    "/v1/responses": ({"input": "hi"}, "max_output_tokens"),
    "/v1/embeddings": ({"input": "hi"}, ""),
}


@pytest.mark.parametrize("path", LIMITS)
def test_hard_mode_limits_an_answer_that_has_no_limit(world: str, path: str) -> None:
    body, name = LIMITS[path]
    site = Site(world, Model(FREE), mode="hard", output=50)
    site.ask(body, path)
    assert site.model.last == {**body, **({name: 50} if name else {})}
    assert site.model.heads[0]["content-length"] == str(len(site.model.asked[0]))
    site = Site(world, Model(FREE), output=50)
    site.ask(body, path)
    assert site.model.last == body


def test_an_added_member_leaves_the_others_as_they_came(world: str) -> None:
    for body, added in (
        (b'{"messages":[],"t":1.50} ', b'{"messages":[],"t":1.50,'),
        (b'{"messages":[]\n}', b'{"messages":[],'),
    ):
        site = Site(world, Model(FREE), mode="hard")
        site.ask(body, content_md5="x", content_digest="y")
        assert site.model.asked == [added + b'"max_completion_tokens": 4096}']
        assert "content-md5" not in site.model.heads[0]
        assert "content-digest" not in site.model.heads[0]


def test_clamping_gives_what_is_left(world: str) -> None:
    site = Site(world, Model(whole(used(0, 700))), "1000/day", mode="hard", clamp=True)
    body = {**CHAT, "max_tokens": 5000, "max_completion_tokens": 20}
    site.ask(body)
    assert site.model.last == {**CHAT, "max_tokens": 1000 - size(body), "max_completion_tokens": 20}
    site.ask({**CHAT, "max_tokens": 5000, "n": 2})
    assert site.model.last["max_tokens"] == (300 - size({**CHAT, "max_tokens": 5000, "n": 2})) // 2
    site.ask(CHAT)
    answer = site.ask(CHAT)
    assert answer.status == 429
    assert "The limit 'tokens:1000/day' is used up." in json.loads(answer.body)["detail"]
    assert len(site.model.asked) == 2


def test_without_it_a_request_that_may_cost_more_than_is_left_is_refused(world: str) -> None:
    site = Site(world, Model(whole(used(0, 700))), "1000/day", mode="hard")
    assert site.ask({**CHAT, "max_tokens": 700}).status == 200
    answer = site.ask({**CHAT, "max_tokens": 700})
    assert answer.status == 429
    assert int(answer.get("retry-after") or 0) > 86_000
    assert site.ask({**CHAT, "max_tokens": 100}).status == 200


# -- usage in streams -------------------------------------------------------------------------------------------------

STREAM = {**CHAT, "stream": True}
PIECES = stream(said("he"), said("llo"), used(9, 12), "[DONE]")
SEEN = b"".join([part for place, part in enumerate(PIECES.parts) if place != 2 and isinstance(part, bytes)])
ALL = b"".join([part for part in PIECES.parts if isinstance(part, bytes)])

ASKED: dict[str, tuple[dict[str, Any], Any, bytes]] = {
    "it does not ask": (STREAM, {"include_usage": True}, SEEN),
    "it asks": ({**STREAM, "stream_options": {"include_usage": True}}, {"include_usage": True}, ALL),
    "it asks not to": ({**STREAM, "stream_options": {"include_usage": False}}, {"include_usage": True}, SEEN),
    "it asks for something else": (
        {**STREAM, "stream_options": {"other": 1.5}},
        {"other": 1.5, "include_usage": True},
        SEEN,
    ),
    "its options are null": ({**STREAM, "stream_options": None}, {"include_usage": True}, SEEN),
    "no stream": (CHAT, None, ALL),
    "a stream of text": ({**STREAM, "stream": "true"}, None, ALL),
}


@pytest.mark.parametrize("case", ASKED)
def test_a_stream_is_asked_for_its_usage_and_that_is_held_back(world: str, case: str) -> None:
    body, options, seen = ASKED[case]
    site = Site(world, Model(PIECES))
    answer = site.ask(body)
    assert site.model.last.get("stream_options") == options
    assert answer.body == seen
    assert site.use == (21, 0)


def test_nor_in_the_smallest_parts_and_not_with_text_in_it(world: str) -> None:
    for reply, seen in (
        (Reply(*[bytes([one]) for one in ALL], kind="text/event-stream"), SEEN),
        (Reply(ALL, kind="text/event-stream"), SEEN),
        (stream({**used(9, 12), "choices": [{"delta": {"content": "x"}}]}), None),
        (Reply(PIECES.parts[2].rstrip(b"\n"), kind="text/event-stream"), b""),  # type: ignore[union-attr]
    ):
        site = Site(world, Model(reply))
        whole_body = b"".join([part for part in reply.parts if isinstance(part, bytes)])
        assert site.ask(STREAM).body == (whole_body if seen is None else seen)
        assert site.use == (21, 0)


def test_others_are_left_alone(world: str) -> None:
    for path, settings in (("/v1/messages", {}), ("/v1/responses", {}), ("/chat", {"include_usage": False})):
        site = Site(world, Model(PIECES), **settings)
        assert site.ask(STREAM, path).body == ALL
        assert site.model.last == STREAM
    site = Site(world, Model(PIECES))
    site.ask(STREAM, anthropic_version="2023-06-01")
    assert site.model.last == STREAM


def test_two_budgets_around_one_another_count_each(world: str) -> None:
    around = TokenBudget("5000/day", by=lambda request: "all", name="all")
    site = Site(world, Model(PIECES), around=[around], mode="hard")
    assert site.ask(STREAM).body == SEEN
    assert site.model.last == {**STREAM, "max_completion_tokens": 4096, "stream_options": {"include_usage": True}}
    (use,) = site.guard.limits.peek("all", by="function")
    assert (use.spent, use.held) == (21, 0)
    assert site.use == (21, 0)


# -- settings ---------------------------------------------------------------------------------------------------------

MISTAKES: dict[str, dict[str, Any]] = {
    "mode is 'soft' or 'hard', not 'firm'": {"mode": "firm"},
    "clamp is True or False, not 1": {"clamp": 1},
    "clamp=True is for mode='hard'": {"clamp": True},
    "output is a number of tokens, 1 to 4294967295, not 0": {"output": 0},
    "output is a number of tokens, 1 to 4294967295, not nan": {"output": float("nan")},
    "input_tokens is a plain function of the parsed body, not 4": {"input_tokens": 4},
    "input_tokens is called with the parsed body alone": {"input_tokens": lambda: 4},
    "max_body is 1024 to 67108864 bytes, not 10": {"max_body": 10},
    "include_usage is True or False, not 'yes'": {"include_usage": "yes"},
    "on_disconnect is 'drain' or 'abort', not 'stop'": {"on_disconnect": "stop"},
    "drain_for is a duration from 1 second to 1 hour, not 0": {"drain_for": 0},
    "by is 'ip', 'key', 'subject' or a function": {"by": "name"},
    "a limit needs at least one rate": {"rates": ()},
}


@pytest.mark.parametrize("told", MISTAKES)
def test_a_mistake_does_not_start(told: str) -> None:
    settings = {"rates": ("1000/day",), **MISTAKES[told]}
    with pytest.raises(ConfigurationError, match="TokenBudget: ") as caught:
        TokenBudget(*settings.pop("rates"), **settings)
    assert told in str(caught.value)


def test_nor_one_that_counts_by_key_without_keys_nor_one_in_shadow_mode() -> None:
    with pytest.raises(ConfigurationError, match="identity"):
        Keyguard(TokenBudget("1000/day"))
    Keyguard(APIKeys(), TokenBudget("1000/day"))
    with pytest.raises(ConfigurationError, match="cannot be in shadow mode"):
        shadow(TokenBudget("1000/day"))
