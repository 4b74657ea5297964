"""The fake provider: keys, limits, scripts and a record, and what is answered to one request."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from threading import Lock
from typing import Any
from urllib.parse import parse_qsl

from keyguard.checks import is_number
from keyguard.clock import SECOND, steady_clock
from keyguard.errors import ConfigurationError
from keyguard.learnt import Dimension, dimension_of
from keyguard.manual_clock import GivenClock, clock_from
from keyguard.testing.play import Played
from keyguard.testing.provider.carrying import carry, collected
from keyguard.testing.provider.dialects import DIALECTS, Asked, DialectName, Refused
from keyguard.testing.provider.meters import Group, Kind, Missing
from keyguard.testing.provider.plan import Plan
from keyguard.testing.provider.received import Received, Record
from keyguard.testing.provider.scripted import Answer, ErrorEvent, Step
from keyguard.units import as_datetime
from keyguard.upstream.causes import UpstreamCause

_MOST_GROUPS = 1000


class FakeProvider:
    """Stands in for a provider of an API: it knows keys, counts limits, refuses as the provider does, and takes note.

    It is an ASGI app, and a server on 127.0.0.1 in a thread:

        provider = FakeProvider("openai", keys={"sk-a": "org-a", "sk-b": "org-b"}, limits={"org-a": {"rpm": 3}})
        with provider.serving() as url:
            client = OpenAI(base_url=f"{url}/v1", api_key="sk-a")
        assert provider.hits["sk-a"] == 1
    """

    def __init__(
        self,
        dialect: DialectName = "openai",
        *,
        keys: Mapping[str, str],
        limits: Mapping[str, Mapping[str, int]] | None = None,
        kind: Kind = "bucket",
        hidden_burst: tuple[int, float] | None = None,
        fields: bool = True,
        per_model: bool = False,
        models: Iterable[str] | None = None,
        credits: Mapping[str, int] | None = None,
        text: str = "Hello from the fake provider.",
        latency: float = 0.0,
        pace: float = 0.0,
        clock: GivenClock | None = None,
        remembers: int = 1000,
    ) -> None:
        """`keys` are the valid keys, each with its limit group; any other gets a 401.

        `limits` are the units a group has in a period, such as `{"org-a": {"rpm": 3, "tpm": 1000}}`, as buckets that
        fill all the time, or as windows; with `per_model` each model has them for itself. `hidden_burst`: a group has
        at most so many requests in a window of so many seconds, of which no field tells. `fields=False`: fields tell
        of no limit. `models`: others do not exist. `credits`: requests that a group can still pay for.

        `text` is what models answer, a word a piece. `latency` are seconds before each head, `pace` seconds between
        the pieces of a stream; these pass in real time. `clock` is what limits go by. The last `remembers` requests
        are kept.

        Raises `ConfigurationError` for what does not make sense.
        """
        if dialect not in DIALECTS:
            raise ConfigurationError(f"dialect is one of {', '.join(DIALECTS)}, not {dialect!r:.80}")
        if kind not in ("bucket", "window"):
            raise ConfigurationError(f"kind is 'bucket' or 'window', not {kind!r:.80}")
        self.keys = dict(keys)
        """The valid keys and their groups. It may be changed while the provider runs."""
        self.credits = dict(credits or {})
        """The requests for which groups can still pay; a group that is not there pays for all."""
        self.latency = _seconds("latency", latency)
        """The seconds before each head."""
        self.pace = _seconds("pace", pace)
        """The seconds between the pieces of a stream."""
        self._limits = {group: _checked(group, each) for group, each in (limits or {}).items()}
        groups = set(self.keys.values())
        for name, given in (("limits", self._limits), ("credits", self.credits)):
            if unknown := sorted(given.keys() - groups):
                raise ConfigurationError(f"no key has the group {unknown[0]!r:.80} that {name} names")
        if hidden_burst is not None and not (_is_count(hidden_burst[0]) and _seconds("hidden_burst", hidden_burst[1])):
            raise ConfigurationError(f"hidden_burst is a number of requests and of seconds, not {hidden_burst!r:.80}")
        self._hidden_burst = hidden_burst
        self._kind: Kind = kind
        self._dialect = DIALECTS[dialect]
        self._fields = fields
        self._per_model = per_model
        self._models = None if models is None else frozenset(models)
        self._words = text.split()
        self._clock = clock_from(clock, steady_clock())
        self._groups: dict[tuple[str, str], Group] = {}
        self._scripts: dict[str, deque[Step]] = {}
        self._record = Record(remembers)
        self._lock = Lock()

    def __repr__(self) -> str:
        return f"<FakeProvider {type(self._dialect).__name__}, {len(self.keys)} keys>"

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer a request of ASGI 3."""
        await carry(self._planned, self._record, scope, receive, send, latency=self.latency, pace=self.pace)

    def serving(self, port: int = 0) -> AbstractContextManager[str]:
        """Serve it on 127.0.0.1, on a free port if none is given, in a thread, and yield the URL, without a slash.

        Raises `ConfigurationError` if uvicorn is not installed (`keyguard[demo]`).
        """
        from keyguard.testing.provider.serving import serve  # with uvicorn, which tests in process may do without

        return serve(self, port)

    def ask(
        self,
        path: str,
        body: Mapping[str, Any] | bytes = b"",
        *,
        key: str = "",
        method: str = "POST",
        headers: Mapping[str, str] | None = None,
    ) -> Played:
        """Send it one request in this thread, without a server and without waiting, and return the response as sent.

        Raises `ConnectionResetError` where a script has the connection reset, and `TimeoutError` where it stalls.
        """
        path, _, query = path.partition("?")
        sent = {name.lower(): value for name, value in (headers or {}).items()}
        if key:
            name, scheme = self._dialect.credentials[0]
            sent[name] = f"{scheme.title()}{key}"
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return collected(self._planned, self._record, method, path, query, tuple(sent.items()), data)

    def script(self, key: str, steps: Iterable[Step]) -> None:
        """Prescribe what is done with the next requests of a key, one after the other; `"*"` means those of all keys.

        A whole `Answer` counts for no limit. `Stall`, `Reset` and `ErrorEvent` disturb the usual answer, and `None`
        leaves it as it is.
        """
        self._scripts.setdefault(key, deque()).extend(steps)

    def error(self, cause: UpstreamCause | str, *, wait: float = 1.0, model: str = "m") -> Answer:
        """Return the response with which this provider refuses for a cause, such as `"billing"`, to be scripted.

        `wait` are the seconds after which it works again, where the provider tells. Raises `ValueError` for a cause
        that is not an `UpstreamCause`.
        """
        refused = Refused(UpstreamCause(cause), self._clock(), model, wait=round(wait * SECOND))
        return self._dialect.refused(refused)

    @property
    def hits(self) -> Counter[str]:
        """The requests that each key was sent with, refused ones too; those without a key stand under `""`."""
        return self._record.hits

    @property
    def requests(self) -> list[Received]:
        """The last requests, the oldest first, as they arrived."""
        return list(self._record.requests)

    @property
    def statuses(self) -> Counter[int]:
        """The responses by status."""
        return self._record.statuses

    @property
    def served(self) -> Counter[str]:
        """The requests that each group was served."""
        return self._record.served

    @property
    def refused(self) -> Counter[str]:
        """The requests that each group was refused because a limit was used up."""
        return self._record.refused

    @property
    def under_way(self) -> int:
        """The requests that are under way now."""
        return self._record.under_way

    @property
    def most_at_once(self) -> int:
        """The most requests that were under way at once."""
        return self._record.most_at_once

    @property
    def left(self) -> int:
        """The clients that left before their response was whole."""
        return self._record.left

    def saw(self, text: str) -> list[str]:
        """Return where a text stood in the requests that it remembers: in a field, the path, the query or the body."""
        return self._record.saw(text)

    def possible(self, group: str, *, model: str = "", tokens: int = 0) -> int | None:
        """Return how many requests of so many tokens the group could have been served since its first one.

        `None` if it has no limit. It goes by the provider's own clock, so it holds on a busy machine too.
        """
        with self._lock:
            found = self._group(group, model)
            cost = {"requests": 1, "tokens": tokens, "input_tokens": tokens}
            return found.possible(self._clock(), cost)

    def remaining(self, group: str, word: str, *, model: str = "") -> int:
        """Return what is left of a limit, such as `"rpm"`. Raises `KeyError` if the group does not have it."""
        with self._lock:
            found = {str(meter.dimension): meter for meter in self._group(group, model).meters}
            return found[word].remaining(self._clock())

    def spend(self, group: str, units: Mapping[str, int], *, model: str = "") -> None:
        """Use up units of a group, such as `{"requests": 5}`, as another app does that has the same keys.

        At most those are taken that are there.
        """
        with self._lock:
            self._group(group, model).spend(self._clock(), units)

    def _planned(self, method: str, path: str, query: str, headers: tuple[tuple[str, str], ...], body: bytes) -> Plan:
        with self._lock:
            now = self._clock()
            key = self._dialect.credential(dict(headers), dict(parse_qsl(query)))
            self._record.note(Received(now, key, method, path, query, headers, body))
            step = self._next_step(key)
            plan = Plan.of_answer(step) if isinstance(step, Answer) else self._usual(key, path, body, now, step)
            self._record.statuses[plan.status] += 1
            return plan.dated(as_datetime(now))

    def _next_step(self, key: str) -> Step:
        script = self._scripts.get(key) or self._scripts.get("*")
        return script.popleft() if script else None

    def _usual(self, key: str, path: str, body: bytes, now: int, step: Step) -> Plan:
        asked = self._dialect.asked(path, _read(body))
        model = asked.model if asked else ""
        refused = self._not_allowed(key, asked, now)
        group = self._group(self.keys.get(key, ""), model)
        if refused is None and asked is not None and not asked.free:
            refused = self._no_room(key, group, asked, now)
        more = self._dialect.fields(group.meters, now) if self._fields and key in self.keys else {}
        if isinstance(step, ErrorEvent) and refused is None and asked is not None and not asked.stream:
            refused = Refused(step.cause, now, model, key, SECOND)
        if refused is not None:
            return _disturbed(Plan.of_answer(self._dialect.refused(refused), more), step)
        assert asked is not None
        words = self._words[: asked.most_output]
        if not asked.stream:
            return _disturbed(Plan.of_answer(Answer(body=self._dialect.answer(asked, words, path)), more), step)
        plan = Plan.of_stream(*self._dialect.events(asked, words), more)
        if isinstance(step, ErrorEvent):
            return plan.broken_off(self._dialect.error_event(Refused(step.cause, now, model, key), asked), step.after)
        return _disturbed(plan, step)

    def _not_allowed(self, key: str, asked: Asked | None, now: int) -> Refused | None:
        if key not in self.keys:
            return Refused(UpstreamCause.INVALID, now, key=key)
        if asked is None:
            return Refused(UpstreamCause.UNSUPPORTED, now, key=key)
        if self._models is not None and asked.model and asked.model not in self._models:
            return Refused(UpstreamCause.UNSUPPORTED, now, asked.model, key)
        return None

    def _no_room(self, key: str, group: Group, asked: Asked, now: int) -> Refused | None:
        name = self.keys[key]
        if self.credits.get(name, 1) < 1:
            return Refused(UpstreamCause.BILLING, now, asked.model, key)
        missing = group.take(now, asked.cost)
        if missing is not None:
            self._record.refused[name] += 1
            return _refused(missing, asked, key, now)
        self._record.served[name] += 1
        if name in self.credits:
            self.credits[name] -= 1
        return None

    def _group(self, name: str, model: str) -> Group:
        place = (name, model if self._per_model else "")
        if place not in self._groups and len(self._groups) >= _MOST_GROUPS:
            place = (name, "...")  # names of models come from callers
        if place not in self._groups:
            self._groups[place] = Group(self._limits.get(name, {}), self._kind, self._hidden_burst)
        return self._groups[place]


def _refused(missing: Missing, asked: Asked, key: str, now: int) -> Refused:
    meter = missing.meter
    cause = UpstreamCause.EXHAUSTED
    if missing.wait is None:
        cause = UpstreamCause.TOO_LARGE
    elif meter is not None and meter.dimension.period >= 86400 * SECOND:
        cause = UpstreamCause.QUOTA
    return Refused(cause, now, asked.model, key, missing.wait or 0, meter, missing.units)


def _disturbed(plan: Plan, step: Step) -> Plan:
    return plan if step is None or isinstance(step, Answer | ErrorEvent) else plan.disturbed(step)


def _read(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _checked(group: str, limits: Mapping[str, int]) -> dict[Dimension, int]:
    for word, limit in limits.items():
        if not _is_count(limit):
            raise ConfigurationError(f"limit {word!r:.20} of {group!r:.80} is a whole number of 1 or more")
    return {dimension_of(word): limit for word, limit in limits.items()}


def _is_count(value: object) -> bool:
    return type(value) is int and value > 0


def _seconds(name: str, value: object) -> float:
    if not is_number(value) or not 0 <= value <= 3600:
        raise ConfigurationError(f"{name} is a number of seconds, not {value!r:.80}")
    return float(value)
