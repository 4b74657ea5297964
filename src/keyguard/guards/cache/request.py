"""Reading requests for a cache: what they ask for, and whether they carry credentials."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from keyguard.digests import digest
from keyguard.errors import ConfigurationError
from keyguard.guards.cache.key import Query, Target, target_of
from keyguard.guards.cache.settings import Settings
from keyguard.guards.cache.variants import MAX_VALUE, too_long
from keyguard.http.cache_control import Directives, parse_cache_control
from keyguard.http.callers import is_nameless
from keyguard.http.fields import FieldSet
from keyguard.http.meanings import KEYED, PERHAPS, SURELY, UNCACHED, meaning
from keyguard.http.spelling import Inside
from keyguard.identity import UNKNOWN, Identity
from keyguard.keys.credentials import Sources
from keyguard.request import CarriedRequest

CREDENTIALS = ("authorization", "x-api-key", "proxy-authorization")
"""Fields that hold credentials in any stack; those in which its `APIKeys` look are added."""
CONDITIONS = FieldSet(("if-none-match", "if-modified-since", "range"))
_LONG_WAY = FieldSet((*CONDITIONS.names, "if-range", "cache-control", "pragma", "content-length"))
"""Fields that make a request more than a plain GET of a URL, besides those that `meaning` tells of."""

_REMEMBERED = 4096


def means_callers(settings: Settings) -> int:
    """Return what of `meaning` counts as credentials.

    All that may name a caller, if the app has not said who its answers are for, or has said that each is for one
    caller; else only what surely does.
    """
    if (settings.ttl is not None and not settings.public) or settings.private:
        return SURELY | PERHAPS
    return SURELY


def is_credential(name: str, settings: Settings) -> bool:
    """Tell whether a request field, by its name in lower case, counts as a credential in any stack."""
    return name in CREDENTIALS or bool(meaning(name) & means_callers(settings))


class CacheRequest(NamedTuple):
    """The facts of a request by which the rules of caching decide."""

    method: str
    directives: Directives
    credentials: bool
    """Whether it carries any, in `Authorization` or wherever API keys are read from."""
    range: str | None
    target: str = ""
    """The URI it asks for, for comparison with `Content-Location`."""


class RequestReader:
    """Reads requests for one cache. It learns where the guards around the app look for credentials."""

    def __init__(self, name: str, settings: Settings, by: str | None, query: Query) -> None:
        self.name = name
        self.settings = settings
        self._for_anybody = replace(settings, private=False)
        self.by = by
        self.query = query
        # Entries that were stored by other rules, in another process or before the last change, are not this cache's.
        rules = repr((replace(settings, ignore_client=False), query.rules))
        self._partition = f"{name} {digest((rules,))[:12]}"
        self._sources: list[Sources] = []
        self._callers = means_callers(settings)
        self._looked: WeakKeyDictionary[Inside, int] = WeakKeyDictionary()
        self.crosses = False
        """Whether an app of the other world stands inside, not all of whose doings can be seen."""
        self.plain: set[Any] = set()
        """Names of fields and variables that mean nothing to this cache, as servers give them. The `host` of ASGI is
        not among them: whoever looks at all fields comes upon it that way."""
        self.bearing: set[Any] = set()
        """Those of fields that bear credentials, and mean nothing else."""
        self.read_credentials([])

    # -- what stands inside -----------------------------------------------------------------------------------

    def read_credentials(self, sources: Iterable[Sources]) -> None:
        """Take what stands in these places for credentials."""
        self._sources += [source for source in sources if source not in self._sources]
        names = [name for source in self._sources for name in source.names]
        fields = {name.lower() for name in (*names, *self.settings.credentials) if ":" not in name}
        self._credential_fields = FieldSet((*CREDENTIALS, *sorted(fields - set(CREDENTIALS))))
        # A name with underscores is one of the environ: request fields with underscores do not come this far.
        self._credential_names = [name for name in self._credential_fields.names if "_" not in name]
        self.elsewhere = [source for source in self._sources if any(":" in name for name in source.names)]
        self.plain, self.bearing = set(), set()

    def learn(self, request: CarriedRequest) -> None:
        """Note where the guards that a request has passed look for credentials: some may stand in other layers."""
        self.add_sources(request.state.sources)
        self.look_inside(request.inside, 2)

    def add_sources(self, sources: Iterable[Sources]) -> None:
        """Do the same, but for the places that are known."""
        for source in sources:
            if source not in self._sources:
                self.read_credentials([source])

    def look_inside(self, inside: Inside, time: int) -> None:
        """Look what stands inside, up to twice: before the app has run it may not be complete."""
        if self._looked.get(inside, 0) >= time:
            return
        self._looked[inside] = time
        crosses, sources = inside.seen()
        self.add_sources(sources)
        if crosses and not self.crosses:
            self.crosses = True
            self._callers |= PERHAPS
            self.plain, self.bearing = set(), set()

    # -- reading a request ------------------------------------------------------------------------------------

    def glance(self, request: CarriedRequest) -> bool | None:
        """Tell whether a request carries credentials; `None` if more in it needs a closer look than its address.

        The fast path of `has_credentials`, `takes_long_way` and `is_keyed`, with the same answers: most requests have
        only fields whose names have been looked at before.
        """
        plain, names = self.plain, request.names()
        found = False
        if not plain.issuperset(names):
            for raw in names:
                if raw not in plain:
                    if raw not in self.bearing and not self._sort(request, raw):
                        return None
                    if raw in self.bearing:
                        if len(request.field_value(raw)) > MAX_VALUE:
                            return None
                        found = True
        elif request.tells_by_names and not self.settings.credentials:
            return False
        return found or bool((request.told() or self.settings.credentials) and self._told(request))

    def _sort(self, request: CarriedRequest, raw: Any) -> bool:
        """Remember what the name of a field or variable means. False if it means more than credentials."""
        name = request.field_name(raw)
        known = self.plain
        if name is None:
            if not is_nameless(raw):
                return True  # its value decides
        elif name in _LONG_WAY.names or meaning(name) & (KEYED | UNCACHED):
            return False
        elif self._is_credential(name):
            known = self.bearing
        if len(known) < _REMEMBERED and raw != b"host":
            known.add(raw)
        return True

    def bypasses(self, request: CarriedRequest) -> bool:
        """Tell whether a request has a field to which no copy answers."""
        return self._means(request, UNCACHED)

    def is_keyed(self, request: CarriedRequest) -> bool:
        """Tell whether a request has fields that are a part of its key."""
        return self._means(request, KEYED)

    def takes_long_way(self, request: CarriedRequest) -> bool:
        """Tell whether a request is more than a plain GET of a URL."""
        return request.sends(_LONG_WAY) or self.bypasses(request)

    def _means(self, request: CarriedRequest, what: int) -> bool:
        plain = self.plain
        for raw in request.names():
            if raw not in plain:
                name = request.field_name(raw)
                if name is not None and meaning(name) & what:
                    return True
        return False

    def target_of(self, request: CarriedRequest) -> Target | None:
        """Return the URI that a request asks for, with its key; `None` if it is not cached."""
        partition = self._partition
        if self.by is not None:
            identity = request.state.identity
            if identity is None:
                raise ConfigurationError(f"<ResponseCache {self.name}> is by {self.by}, but {UNKNOWN}")
            caller: Sequence[str] = ()
            keys: set[str] = set()
            if not identity.anonymous:
                # The identity says more than the text of the key it was found by. Other credentials count beside it.
                caller = _of_caller(identity, self.by)
                keys = {key for source in self._sources for key in source.read(request)}
            partition = digest((partition, self.by, *caller, *self.credentials_of(request, keys)))
        if any(map(too_long, map(request.header, self._credential_names))):
            return None
        return target_of(request, self.query, partition)

    def credentials_of(self, request: CarriedRequest, less: Collection[str] = ()) -> list[str]:
        """Return all credentials that a request carries, less the keys named, for a digest."""
        found = []
        for raw in request.names():
            name = request.field_name(raw)
            if name is not None and self._is_credential(name):
                value = request.field_value(raw)
                if value and value not in less and value.partition(" ")[2].strip() not in less:
                    found.append(f"{name}={value}")
        found += [f"{name}: {value}" for name, value in self._told(request)]
        for source in self.elsewhere:
            found += sorted(source.read(request).difference(less))
        return sorted(found)

    def has_credentials(self, request: CarriedRequest) -> bool:
        """Tell whether a request carries credentials, or was found to be a known caller's."""
        identity = request.state.identity
        if identity is not None and not identity.anonymous:
            return True
        plain = self.plain
        for raw in request.names():
            if raw not in plain:
                name = request.field_name(raw)
                if name is not None and self._is_credential(name):
                    return True
        return (
            bool(self._told(request))
            or any(source.read(request) for source in self.elsewhere)
            or (self.query.changes and self.query.ignores_credentials(request.raw_query))
        )

    def _is_credential(self, name: str) -> bool:
        return name in self._credential_fields.names or bool(meaning(name) & self._callers)

    def _told(self, request: CarriedRequest) -> list[tuple[str, str]]:
        """Return what servers and middleware say of the caller, as far as it counts."""
        told = request.told()
        found = [(name, value) for name, surely, value in told if surely & self._callers] if told else []
        for name in self.settings.credentials:
            value = request.scope.get(name)
            if value:
                found.append((name, repr(value)))
        return found

    def settings_for(self, request: CarriedRequest) -> Settings:
        """Return the settings that count for a request's caller: an anonymous one has no entries of its own."""
        identity = request.state.identity
        return self._for_anybody if identity is None or identity.anonymous else self.settings

    def read(self, request: CarriedRequest, target: Target) -> CacheRequest:
        """Return what the rules of caching need to know of a request."""
        text = request.header("cache-control")
        if text is not None:
            directives = parse_cache_control((text,))
        elif _says_no_cache(request.header("pragma") or ""):
            directives = {"no-cache": None}  # RFC 9111, section 5.4: if there is no Cache-Control
        else:
            directives = {}
        method = request.method
        ranged = request.header("range") if method == "GET" else None
        return CacheRequest(method, directives, self.has_credentials(request), ranged, target.uri)


def _says_no_cache(pragma: str) -> bool:
    """Tell whether `Pragma` says no-cache; one that is too long to be meant seriously does."""
    return len(pragma) > 256 or "no-cache" in pragma.lower()


def _of_caller(identity: Identity, by: str) -> list[str]:
    """Return whose an entry is and what the app may have made it by: a caller that loses a scope loses its entries."""
    return [
        identity.key_id if by == "key" else identity.subject,
        repr(identity.plan),
        repr(sorted(identity.scopes)),
        _canonical(identity.metadata),
    ]


def _canonical(value: Any) -> str:
    """Return JSON values as a text that does not depend on the order of their names."""
    if isinstance(value, dict):
        return "{" + ",".join(sorted(f"{key!r}:{_canonical(one)}" for key, one in value.items())) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_canonical, value)) + "]"
    if isinstance(value, (set, frozenset)):
        return "{" + ",".join(sorted(map(_canonical, value))) + "}"
    return repr(value)
