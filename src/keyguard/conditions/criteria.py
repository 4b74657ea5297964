"""Conditions on all but the path. Each takes one or more values, and holds for any of them.

Where apps differ in how they read a request, a condition that closes a door holds for every way, and one that opens a
door for requests that all of them read alike: a field that was sent twice, a method that something inside may change.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, tzinfo
from datetime import time as clock_time
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from keyguard.checks import is_name, is_token
from keyguard.clock import SECOND
from keyguard.conditions.condition import Condition
from keyguard.errors import ConfigurationError
from keyguard.http.addresses import Networks
from keyguard.http.fields import METHOD_OVERRIDES, METHODS
from keyguard.http.values import Values, query_values

T = TypeVar("T")

_LONGEST = 256  # characters of a plan or a scope


class _Listed(Condition):
    """A condition that holds for any of some values."""

    __slots__ = ("values",)

    word = ""

    def __init__(self, values: Iterable[str]) -> None:
        self.values = frozenset(values)

    def __repr__(self) -> str:
        return f"{self.word}({', '.join(map(repr, sorted(self.values)))})"

    @property
    def parts(self) -> tuple[object, ...]:
        return (self.values,)


class OfMethod(_Listed):
    """Holds for requests of some methods."""

    __slots__ = ()
    word = "method"

    def holds(self, request: Any, *, wide: bool) -> bool:
        method = request.method
        if wide:
            return method in self.values or method not in METHODS or request.sends(METHOD_OVERRIDES)
        return method in self.values and not request.sends(METHOD_OVERRIDES)


class FromNetwork(Condition):
    """Holds for callers of some networks."""

    __slots__ = ("networks",)

    def __init__(self, networks: Iterable[str]) -> None:
        self.networks = Networks(tuple(networks))

    def __repr__(self) -> str:
        return f"ip({', '.join(map(repr, self.networks.texts))})"

    def holds(self, request: Any, *, wide: bool) -> bool:
        return request.client in self.networks

    @property
    def parts(self) -> tuple[object, ...]:
        return (self.networks.texts,)


class OfPlan(_Listed):
    """Holds for callers of some plans."""

    __slots__ = ()
    word = "plan"
    needs = frozenset({"identity"})

    def holds(self, request: Any, *, wide: bool) -> bool:
        found: object = request.identity.plan
        return isinstance(found, str) and found in self.values  # a look-up may have taken anything from its database


class WithScope(_Listed):
    """Holds for callers whose key holds one of some scopes."""

    __slots__ = ()
    word = "scope"
    needs = frozenset({"identity"})

    def holds(self, request: Any, *, wide: bool) -> bool:
        return not self.values.isdisjoint(request.identity.scopes)


class AtTime(Condition):
    """Holds within some hours of the day."""

    __slots__ = ("begin", "end", "zone")

    def __init__(self, begin: clock_time, end: clock_time, zone: tzinfo) -> None:
        self.begin, self.end, self.zone = begin, end, zone

    def __repr__(self) -> str:
        return f"time('{self.begin:%H:%M}-{self.end:%H:%M}', tz={str(self.zone)!r})"

    def holds(self, request: Any, *, wide: bool) -> bool:
        second, rest = divmod(request.clock(), SECOND)
        now = (_EPOCH + timedelta(seconds=second, microseconds=rest)).astimezone(self.zone).time()
        if self.begin < self.end:
            return self.begin <= now < self.end
        return now >= self.begin or now < self.end

    @property
    def parts(self) -> tuple[object, ...]:
        return self.begin, self.end, str(self.zone)


class _OfName(Condition):
    """A condition on what a request carries under a name."""

    __slots__ = ("name", "values")

    word = ""

    def __init__(self, name: str, values: Iterable[str]) -> None:
        self.name = name
        self.values = frozenset(values)

    def __repr__(self) -> str:
        return f"{self.word}({', '.join(map(repr, [self.name, *sorted(self.values)]))})"

    @property
    def parts(self) -> tuple[object, ...]:
        return self.name, self.values


class WithHeader(_OfName):
    """Holds for requests with a header field, of some values if there are any."""

    __slots__ = ()
    word = "header"

    def holds(self, request: Any, *, wide: bool) -> bool:
        sent = request.header(self.name)
        if sent is None:
            return False
        values = self.values
        if not values or sent in values:
            return True
        # Several lines of a name are one text here; an app may take any of them.
        return wide and "," in sent and any(member.strip(" \t") in values for member in sent.split(","))


class WithQuery(_OfName):
    """Holds for requests with a parameter in the query, of some values if there are any."""

    __slots__ = ()
    word = "query"

    def holds(self, request: Any, *, wide: bool) -> bool:
        raw = request.raw_query
        if not raw:
            return False
        holds = self._of(request.query, wide)
        if b";" in raw and holds is not wide:  # some apps take that for `&`, as HTML once had it
            return self._of(query_values(raw.replace(b";", b"&")), wide)
        return holds

    def _of(self, sent: Values, wide: bool) -> bool:
        if self.name not in sent:
            return False
        found = [value in self.values for value in sent.get_all(self.name)]
        return not self.values or (any(found) if wide else all(found))


# -- what people write --------------------------------------------------------------------------------------------


def method(*names: str) -> Condition:
    """Return a condition that holds for requests of these methods: `method("POST", "PUT")`.

    `GET` means `HEAD` as well, which apps answer with the same code. If it closes a door (a limit) it also holds for
    methods that HTTP does not define, and for requests with a field such as `X-HTTP-Method-Override`, of which
    something inside may make one of another method; if it opens one (an exemption) it holds for neither.

    Raises `ConfigurationError` for what is not a method of HTTP in capitals.
    """
    for name in _some("method", "'POST'", names):
        if name not in METHODS:
            raise ConfigurationError(f"{name!r} is no HTTP method; they are written in capitals, such as 'POST'")
    return OfMethod({*names, "HEAD"} if "GET" in names else names)


def ip(*networks: str) -> Condition:
    """Return a condition that holds for callers of these addresses and networks: `ip("10.0.0.0/8", "2001:db8::/32")`.

    An address that cannot be known is in no network. Raises `ConfigurationError` for a text that is not a network.
    """
    return FromNetwork(_some("ip", "'10.0.0.0/8'", networks))


def plan(*names: str) -> Condition:
    """Return a condition that holds for callers whose key is of one of these plans: `plan("free")`.

    It needs `APIKeys` further out. An anonymous caller has no plan. Raises `ConfigurationError` for what is not a name.
    """
    return OfPlan(_names("plan", names))


def scope(*names: str) -> Condition:
    """Return a condition that holds for callers whose key holds one of these scopes: `scope("write")`.

    For all of several write `scope("read") & scope("write")`. It needs `APIKeys` further out. An anonymous caller has
    no scopes. Raises `ConfigurationError` for what is not a name.
    """
    return WithScope(_names("scope", names))


def time(hours: str, *, tz: str | tzinfo = "UTC") -> Condition:
    """Return a condition that holds in these hours of each day: `time("09:00-17:00", tz="Europe/Berlin")`.

    The first minute belongs to them and the last one does not. Hours over midnight are written as they are:
    `time("22:00-06:00")`. The time is the stack's. Raises `ConfigurationError` for what are not hours, for as much as
    none or all of a day, and for a time zone that is not known.
    """
    match = _HOURS.fullmatch(hours) if isinstance(hours, str) else None
    if match is None:
        raise ConfigurationError(f"time is a text such as '09:00-17:00', hours from 00:00 to 24:00, not {hours!r}")
    begin, end = [_minute(match[place], match[place + 1]) for place in (1, 3)]
    if begin == end:
        raise ConfigurationError(f"time {hours!r} is no time or all of it: write no condition for the whole day")
    return AtTime(begin, end, _zone(tz))


def header(name: str, *values: str) -> Condition:
    """Return a condition that holds for requests with this header field: `header("x-tenant", "acme")`.

    Without values it holds if the field is there at all. Values are compared as they are. A caller chooses what it
    sends: let no such condition alone open a door, unless a proxy of yours sets the field. If it closes a door it holds
    if any member of a list, or of several lines, is one of the values.

    Raises `ConfigurationError` for what is not the name of a field, or not a value.
    """
    if not isinstance(name, str) or not is_token(name):
        raise ConfigurationError(f"header takes the name of a header field, such as 'x-tenant', not {name!r}")
    if "_" in name:
        raise ConfigurationError(f"fields with an underscore are taken off requests: write {name.replace('_', '-')!r}")
    return WithHeader(name.lower(), _values("header", values))


def query(name: str, *values: str) -> Condition:
    """Return a condition that holds for requests with this parameter in the query: `query("export", "csv")`.

    Without values it holds if the parameter is there at all. If it was sent more than once, one value is enough to
    close a door, and all must be right to open one; and so with `;`, which some apps read as `&`.

    Raises `ConfigurationError` for what is not a name, or not a value.
    """
    if not isinstance(name, str) or not name:
        raise ConfigurationError(f"query takes the name of a parameter, such as 'export', not {name!r}")
    return WithQuery(name, _values("query", values))


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_HOURS = re.compile(r"([01][0-9]|2[0-4]):([0-5][0-9])-([01][0-9]|2[0-4]):([0-5][0-9])")


def _minute(hour: str, minute: str) -> clock_time:
    if hour == "24":
        if minute != "00":
            raise ConfigurationError(f"a day ends at 24:00, before '24:{minute}'")
        return clock_time()
    return clock_time(int(hour), int(minute))


def _zone(tz: object) -> tzinfo:
    if isinstance(tz, tzinfo):
        return tz
    try:
        return ZoneInfo(str(tz) if isinstance(tz, str) else "")
    except Exception as error:  # of several kinds, for names that are not there and for those that cannot be
        raise ConfigurationError(f"tz={tz!r} is not a time zone that is known, such as 'Europe/Berlin'") from error


def _some(word: str, example: str, given: tuple[T, ...]) -> tuple[T, ...]:
    if not given:
        raise ConfigurationError(f"{word}() would hold for nothing: write {word}({example})")
    for one in given:
        if not isinstance(one, str):
            raise ConfigurationError(f"{word} takes texts, such as {word}({example}), not {one!r}")
    return given


def _names(word: str, given: tuple[str, ...]) -> tuple[str, ...]:
    for name in _some(word, "'free'" if word == "plan" else "'write'", given):
        if not is_name(name, _LONGEST):
            raise ConfigurationError(f"a {word} is a printable text of 1 to {_LONGEST} characters, not {name!r:.80}")
    return given


def _values(word: str, given: tuple[str, ...]) -> tuple[str, ...]:
    for value in given:
        if not isinstance(value, str):
            raise ConfigurationError(f"{word} takes values as texts, not {value!r}")
        if word == "header" and (value != value.strip(" \t") or not value.isprintable()):
            raise ConfigurationError(f"no header field has the value {value!r}: it would never hold")
    return given
