"""Dialects: how a provider reads keys and requests, tells of limits, answers and refuses."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, TypeAlias

from keyguard.clock import SECOND
from keyguard.testing.provider.meters import Meter
from keyguard.testing.provider.scripted import Answer
from keyguard.units import as_datetime
from keyguard.upstream.causes import UpstreamCause

Fields: TypeAlias = dict[str, str]
JSON: TypeAlias = dict[str, Any]


class Asked(NamedTuple):
    """The wishes of a request."""

    endpoint: str
    model: str = ""
    stream: bool = False
    with_usage: bool = False
    """Whether the last event of a stream tells what it cost, where that has to be asked for."""
    input_tokens: int = 0
    most_output: int | None = None
    """The most tokens that the answer may have, as the request says."""
    free: bool = False
    """Whether no limit counts it."""

    @property
    def cost(self) -> dict[str, int]:
        """Return the units that limits count, before it is known how long the answer is."""
        output = 16 if self.most_output is None else self.most_output
        return {"requests": 1, "input_tokens": self.input_tokens, "output_tokens": output}


class Refused(NamedTuple):
    """The reason for which a request is refused."""

    cause: UpstreamCause
    at: int = 0
    model: str = ""
    key: str = ""
    wait: int = 0
    """Microseconds until it works again."""
    meter: Meter | None = None
    """The limit that is used up; `None` if it is a hidden one."""
    units: int = 0
    """The units that were asked of that limit."""

    @property
    def seconds(self) -> int:
        """Return the wait in whole seconds, at least one."""
        return max(1, -(-self.wait // SECOND))

    @property
    def again(self) -> datetime:
        """Return when it works again."""
        return as_datetime(self.at + self.wait)


class Dialect:
    """One provider's way to talk. Others override what is different."""

    credentials: Sequence[tuple[str, str]] = (("authorization", "bearer "),)
    """Where a key may stand: fields, and what is written before it, in lower case."""
    key_parameter = ""
    """The query parameter in which a key may stand."""

    def credential(self, headers: Mapping[str, str], query: Mapping[str, str]) -> str:
        """Return the key of a request; empty if there is none."""
        for name, scheme in self.credentials:
            value = headers.get(name, "")
            if value and value.lower().startswith(scheme):
                return value[len(scheme) :].strip()
        return query.get(self.key_parameter, "") if self.key_parameter else ""

    def asked(self, path: str, body: JSON) -> Asked | None:
        """Return what a request asks for; `None` if there is no such thing."""
        return Asked("any")

    def fields(self, meters: Sequence[Meter], now: int) -> Fields:
        """Return the header fields that tell of limits."""
        return {}

    def answer(self, asked: Asked, words: Sequence[str], path: str) -> JSON:
        """Return the body of an answer that is not a stream."""
        return {"object": "answer", "path": path, "text": " ".join(words)}

    def events(self, asked: Asked, words: Sequence[str]) -> tuple[list[bytes], int]:
        """Return the events of a stream, and how many of them come before its content."""
        raise NotImplementedError

    def refused(self, refused: Refused) -> Answer:
        """Return the response of a refusal."""
        raise NotImplementedError

    def error_event(self, refused: Refused, asked: Asked) -> bytes:
        """Return an error in the middle of a stream."""
        body = self.refused(refused).body
        assert isinstance(body, Mapping)
        return event(body)


def event(data: Mapping[str, Any] | str, name: str = "") -> bytes:
    """Return one event of a stream (HTML, section 9.2)."""
    text = data if isinstance(data, str) else json.dumps(data)
    return (f"event: {name}\n" if name else "").encode() + f"data: {text}\n\n".encode()


def tokens_in(value: Any) -> int:
    """Return about how many tokens texts have, wherever they stand in a request: one for four letters."""
    return max(1, -(-_letters(value) // 4))


def _letters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_letters(value.get(name)) for name in ("content", "text", "parts", "input") if name in value)
    return sum(map(_letters, value)) if isinstance(value, list) else 0


def most_of(body: JSON, *names: str) -> int | None:
    """Return the first of these members that is a whole number."""
    return next((value for name in names if type(value := body.get(name)) is int and value >= 0), None)


def meter_of(meters: Sequence[Meter], word: str) -> Meter | None:
    """Return the limit with a short word such as `rpm`."""
    return next((meter for meter in meters if str(meter.dimension) == word), None)


def go_duration(microseconds: int) -> str:
    """Return a duration as Go writes it, such as `6m0s`, `2m59.56s` or `12ms`."""
    if microseconds < SECOND:
        return f"{-(-microseconds // 1000)}ms"
    minutes, rest = divmod(microseconds, 60 * SECOND)
    hours, minutes = divmod(minutes, 60)
    seconds = f"{rest // 1000 / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    if hours:
        return f"{hours}h{minutes}m{seconds}"
    return f"{minutes}m{seconds}" if minutes else seconds


def name_of_limit(refused: Refused) -> str:
    """Return a limit's name as messages have it, such as `tokens per min (TPM)`."""
    if refused.meter is None:
        return "requests per min (RPM)"
    dimension = refused.meter.dimension
    period = {1: "sec", 60: "min", 3600: "hour", 86400: "day"}.get(dimension.period // SECOND, "period")
    return f"{dimension.unit.replace('_', ' ')} per {period} ({str(dimension).upper()})"
