"""Where a request carries API keys: header fields, schemes of `Authorization`, cookies, the query, subprotocols.

Every place is read, and every key that is found counts: two different ones are for the guard to refuse, whatever
places they came in. Texts are compared as they are; nothing is normalised. A part that is not looked at, since a place
holds more than any caller has reason to send, counts as one more key, which is not valid.

The Bearer scheme is everybody's: an app may have tokens of its own there, beside a key in another place. If it is known
how keys begin, a Bearer text that begins otherwise is not a key. In the other places stands what was put there for us.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from keyguard.errors import ConfigurationError
from keyguard.http.fields import FieldSet
from keyguard.keys.places import AUTHORIZATION, Place, Scheme, place_of
from keyguard.request import CarriedRequest


class Sources:
    """The places in which a key is looked for. A Bearer text is a key if it begins with `beginning`."""

    __slots__ = ("_bearer", "_fields", "_places", "_schemes", "names")

    def __init__(self, names: Iterable[str], beginning: str = "") -> None:
        self.names = tuple([names] if isinstance(names, str) else names)
        if not self.names:
            raise ConfigurationError("sources is empty: name at least one place, such as 'x-api-key'")
        self._places: list[Place] = [place_of(name, beginning) for name in self.names]
        self._bearer = any(isinstance(place, Scheme) and place.open for place in self._places)
        plain = not any(":" in name or "_" in name for name in self.names)
        self._fields = FieldSet({name.lower() for name in self.names} if plain else ())
        """The header fields that are looked at. Empty if other places are looked at too."""
        bearer = FieldSet([AUTHORIZATION])
        self._schemes: dict[Any, bytes] = dict.fromkeys((*bearer.raw, *bearer.variables), b"Bearer ")
        """The beginning of a value before the key, by the name of the field as servers give it."""

    @property
    def schemes(self) -> tuple[str, ...]:
        """The schemes of `Authorization` that are read, as a challenge names them."""
        found = [place.scheme for place in self._places if place.scheme]
        return tuple(dict.fromkeys(found))

    @property
    def forms(self) -> tuple[str, ...]:
        """How each place is written, with `KEY` for the key."""
        return tuple(dict.fromkeys([place.form for place in self._places]))

    def read(self, request: CarriedRequest) -> set[str]:
        """Return the different keys that the request carries. An empty one is a key, and not a valid one."""
        found: set[str] = set()
        for place in self._places:
            text = place.text(request)
            if text is not None:
                place.read(text, found)
        return found

    def read_plain(self, request: CarriedRequest) -> bytes | None:
        """Return the text in the place of a key, if the request has one such place filled; else `None`.

        If it is a key that was valid when `read` found it in another request, `read` finds it in this one, and nothing
        else: fast path of `read`, same answers. What any other text means, `read` decides.
        """
        found = request.sole(self._fields)
        if found is None:
            return None
        name, value = found
        scheme = self._schemes.get(name)
        if scheme is None:
            return value
        return value[len(scheme) :] if value.startswith(scheme) else None

    def foreign(self, request: CarriedRequest) -> bool:
        """Tell whether the request carries a Bearer text that is not a key."""
        value = request.header(AUTHORIZATION) if self._bearer else None
        texts = [] if value is None else Scheme("Bearer").texts(value)
        return bool(texts) and not all(any(text in _of(place, value) for place in self._places) for text in texts)

    def mistaken(self, request: CarriedRequest) -> bool:
        """Tell whether a request without a key has one field, at least, in which one is looked for in another form."""
        return request.header(AUTHORIZATION) is not None

    def left(self, request: CarriedRequest) -> tuple[dict[str, str | None], bytes | None]:
        """Return what remains of the places if the keys are taken off.

        That is header fields, `None` for those that go, and the query; `None` for one that stays as it is.
        """
        fields: dict[str, str | None] = {}
        query = None
        for place in self._places:
            if place.field is None:
                text = place.text(request) if query is None else query.decode("latin-1")
                if text is not None and (left := place.without(text)) != text:
                    query = (left or "").encode("latin-1")
                continue
            text = fields[place.field] if place.field in fields else place.text(request)
            if text is not None and (left := place.without(text)) != text:
                fields[place.field] = left
        return fields, query


def _of(place: Place, value: str | None) -> set[str]:
    found: set[str] = set()
    if value is not None and place.field == AUTHORIZATION:
        place.read(value, found)
    return found
