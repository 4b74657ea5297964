"""Callers by a field of a small body: the name that somebody wants to log in with.

    RateLimit("5/minute", by=json_field("username"), methods=["POST"], paths=["/login"])

Rules:
- The body is read once, up to a bound, and the app gets all of it: it does not notice.
- A caller cannot choose not to be counted. All that cannot be read as the app may read it shares one counter, or is
  refused: a body that is too long, cut off, encoded or of another type; JSON that is broken or names a member twice; a
  field that is not there, or is not text.
- Nor by saying it somewhere else as well: a parameter of the query that has the name of a field shares that counter,
  too, since some frameworks read it in its place.
- One name is one name: blanks around it, the case, accents and other forms of its letters do not make another one,
  since an app or its database may take them for the same. A number counts as the text that it is written as.
- A name is not a caller: anybody can send the name of somebody else, and use up what is counted for it. So this limits
  attempts on one name, from many addresses, beside a limit by address.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Literal, TypeAlias

from keyguard.checks import is_token, is_whole
from keyguard.errors import ConfigurationError
from keyguard.flow import Stepwise
from keyguard.http.fields import decoded
from keyguard.http.strict_json import strict_json
from keyguard.refusal import Cause
from keyguard.request import Request, carried
from keyguard.steps import ReadBody, Unread
from keyguard.uncounted import NotCounted

MAX_BYTES = 16 * 1024
_MOST_BYTES = 1024 * 1024
_LONGEST = 1024  # characters of a name
NO_BODY = "keyguard.no_body"
"""The ASGI extension of a request whose body is not known: one of the past, which only a log tells of. Its `asked` says
whether anything wanted to read it. It is counted for no name."""

UNREADABLE = ("the body cannot be read",)
"""The caller that all share whose body cannot be read: no field is one tuple of one text."""

Reader: TypeAlias = Callable[[bytes, Sequence[str]], list[str]]
"""Returns the fields of a body, by their names. Raises `_Unreadable`, or `ValueError`."""


class _Unreadable(Exception):
    """Why nothing can be read: a word for the log, a status and a sentence for whoever is refused."""

    def __init__(self, reason: str, status: int, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.status = status
        self.detail = detail


class BodyField(Stepwise):
    """Names the caller of a request by fields of its body. Made by `json_field` and `form_field`; `one | other` reads
    whichever type the body is of."""

    def __init__(
        self,
        readers: Sequence[tuple[str, tuple[str, ...]]],
        *,
        ignore_case: bool,
        max_bytes: int,
        unreadable: Literal["share", "refuse"],
    ) -> None:
        self._readers = tuple(readers)
        self._settings = (ignore_case, max_bytes, unreadable)
        self.__name__ = " or ".join(f"{kind}_field({', '.join(names)})" for kind, names in self._readers)
        self.__qualname__ = self.__name__
        self.__module__ = "keyguard"

    def __repr__(self) -> str:
        return self.__name__

    def __or__(self, other: object) -> BodyField:
        """Read bodies of both types. Raises `ConfigurationError` if the two differ in their settings."""
        if not isinstance(other, BodyField):
            return NotImplemented
        kinds = [kind for kind, _ in (*self._readers, *other._readers)]
        counts = {len(names) for _, names in (*self._readers, *other._readers)}
        if self._settings != other._settings or len(set(kinds)) < len(kinds) or len(counts) > 1:
            raise ConfigurationError(
                f"{self!r} and {other!r} go together if they read bodies of different types, as many fields, and are "
                "alike in all other settings"
            )
        ignore_case, max_bytes, unreadable = self._settings
        readers = (*self._readers, *other._readers)
        return BodyField(readers, ignore_case=ignore_case, max_bytes=max_bytes, unreadable=unreadable)

    def __call__(self, request: Request) -> Coroutine[Any, Any, str | tuple[str, ...] | None]:
        """Return what awaits the caller's name: steps alone, so that it needs no event loop."""
        return self._named(request)

    async def _named(self, request: Request) -> str | tuple[str, ...] | None:
        ignore_case, max_bytes, unreadable = self._settings
        of_the_past = (carried(request).scope.get("extensions") or {}).get(NO_BODY)
        if of_the_past is not None:
            of_the_past["asked"] = True
            return None
        try:
            kind, names = self._reader_for(request)
            for name in names:
                if name in request.query:
                    raise _missing(name)
            body, unread = await ReadBody(carried(request), max_bytes)
            if unread is not None:
                raise _unread(unread, max_bytes)
            try:
                values = _READERS[kind][0](body, names)
            except (ValueError, RecursionError):
                raise _Unreadable("body-broken", 400, f"The body is not {_READERS[kind][2]}.") from None
            if max(map(len, values)) > _LONGEST:  # a database may cut it off, to the name of somebody else
                raise _Unreadable("field-too-long", 400, f"A name has at most {_LONGEST} characters.")
        except _Unreadable as why:
            if unreadable == "refuse":
                raise NotCounted(Cause.REQUEST, why.detail, why.reason, status=why.status) from None
            return UNREADABLE
        folded = [_folded(value) if ignore_case else value.strip() for value in values]
        return folded[0] if len(folded) == 1 else tuple(folded)

    def _reader_for(self, request: Request) -> tuple[str, tuple[str, ...]]:
        """Return what reads a body of the type that the request says."""
        media, _, parameters = (request.header("content-type") or "").partition(";")
        media = media.strip().lower()
        charset = [
            part.partition("=")[2].strip(' "').lower() for part in parameters.split(";") if "charset" in part.lower()
        ]
        encoding = (request.header("content-encoding") or "identity").strip().lower()
        for kind, names in self._readers:
            if _READERS[kind][1](media) and set(charset) <= {"utf-8", "utf8"} and encoding == "identity":
                return kind, names
        told = " or ".join(_READERS[kind][3] for kind, _ in self._readers)
        raise _Unreadable("body-type", 415, f"Send a body of the type {told}, in UTF-8 and not compressed.")


def json_field(
    *names: str,
    ignore_case: bool = True,
    max_bytes: int = MAX_BYTES,
    unreadable: Literal["share", "refuse"] = "share",
) -> BodyField:
    """Count by a field of a JSON body: `by=json_field("username")`, for `RateLimit`.

    - `names`: a member of the object, or a JSON pointer (RFC 6901) to what stands further in: `"/user/email"`. Several
      together name one caller.
    - `ignore_case`: whether names that differ in case, accents or forms of letters are one, as many databases have it.
      Else only blanks around them are cut off.
    - `max_bytes`: so much of a body is read, 1 to 1,048,576 bytes.
    - `unreadable`: what happens to requests of which no name can be read. `"share"` counts all of them together,
      `"refuse"` answers 413 for a body that is too long, 415 for another type, and 400 else.

    It needs `methods`. The request is held up until its body is there; how long that may take is the server's to say.
    Raises `ConfigurationError` for a setting that is wrong.
    """
    return _field("json", names, ignore_case, max_bytes, unreadable)


def form_field(
    *names: str,
    ignore_case: bool = True,
    max_bytes: int = MAX_BYTES,
    unreadable: Literal["share", "refuse"] = "share",
) -> BodyField:
    """Count by a field of a form (`application/x-www-form-urlencoded`): `by=form_field("email")`, for `RateLimit`.

    The settings are those of `json_field`, whose names are here the names of fields. Forms with files
    (`multipart/form-data`) are not read. `json_field("email") | form_field("email")` reads bodies of both types. Raises
    `ConfigurationError` for a setting that is wrong.
    """
    return _field("form", names, ignore_case, max_bytes, unreadable)


def _field(kind: str, names: tuple[str, ...], ignore_case: Any, max_bytes: Any, unreadable: Any) -> BodyField:
    what = f"{kind}_field"
    if not names or not all(isinstance(name, str) and name.isprintable() and name.strip() for name in names):
        raise ConfigurationError(f"{what} takes the names of fields, such as 'username', not {names!r:.80}")
    if kind == "json":
        for name in names:
            _tokens(name)
    if not isinstance(ignore_case, bool):
        raise ConfigurationError(f"{what}: ignore_case is True or False, not {ignore_case!r:.80}")
    if not is_whole(max_bytes) or not 1 <= max_bytes <= _MOST_BYTES:
        raise ConfigurationError(f"{what}: max_bytes is 1 to {_MOST_BYTES} bytes, not {max_bytes!r:.80}")
    if unreadable not in ("share", "refuse"):
        raise ConfigurationError(f"{what}: unreadable is 'share' or 'refuse', not {unreadable!r:.80}")
    return BodyField([(kind, names)], ignore_case=ignore_case, max_bytes=max_bytes, unreadable=unreadable)


# -- reading ------------------------------------------------------------------------------------------------------


def _unread(why: Unread, most: int) -> _Unreadable:
    if why is Unread.TOO_LONG:
        return _Unreadable(why.value, 413, f"The body has more than {most} bytes.")
    return _Unreadable(why.value, 400, "The body did not come to its end.")


def _missing(name: str) -> _Unreadable:
    return _Unreadable("field-missing", 400, f"The body needs one field {name!r} that is a text.")


def _of_json(body: bytes, names: Sequence[str]) -> list[str]:
    found = strict_json(body)
    return [_text(_at(found, name), name) for name in names]


def _at(found: Any, name: str) -> Any:
    for token in _tokens(name):
        if isinstance(found, dict) and token in found:
            found = found[token]
        elif isinstance(found, list) and token.isascii() and token.isdigit() and str(int(token)) == token:
            found = found[int(token)] if int(token) < len(found) else None
        else:
            return None
    return found


def _tokens(name: str) -> list[str]:
    """Return the steps of a JSON pointer, or the only one of a plain name."""
    if not name.startswith("/"):
        return [name]
    tokens = name[1:].split("/")
    for token in tokens:
        if "~" in token.replace("~0", "").replace("~1", "") or len(token) > 100:
            raise ConfigurationError(f"{name!r:.80} is not a JSON pointer: '~' is written '~0', and '/' in a name '~1'")
    return [token.replace("~1", "/").replace("~0", "~") for token in tokens]


def _text(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return str(value)
    raise _missing(name)


def _of_form(body: bytes, names: Sequence[str]) -> list[str]:
    found: dict[str, list[str]] = {name: [] for name in names}
    for pair in body.split(b"&"):
        raw, _, value = pair.partition(b"=")
        values = found.get(_decoded(raw))
        if values is not None:
            values.append(_decoded(value))
    for name, values in found.items():
        if len(values) != 1:  # of two, one app takes the first, another one the last
            raise _missing(name)
    return [values[0] for values in found.values()]


def _decoded(text: bytes) -> str:
    return decoded(text.replace(b"+", b" ")).decode("utf-8")


def _folded(text: str) -> str:
    """Return a text without what an app or its database may not tell apart: case, accents, forms of letters."""
    parts = unicodedata.normalize("NFKD", text.casefold())
    bare = "".join([one for one in parts if unicodedata.category(one) not in ("Mn", "Cf", "Cc")])
    return unicodedata.normalize("NFKC", bare.casefold()).strip()


def _is_json(media: str) -> bool:
    return media == "application/json" or (
        media.startswith("application/") and media.endswith("+json") and is_token(media[12:])
    )


def _is_form(media: str) -> bool:
    return media == "application/x-www-form-urlencoded"


_READERS: dict[str, tuple[Reader, Callable[[str], bool], str, str]] = {
    "json": (_of_json, _is_json, "JSON in UTF-8 that names each member once", "application/json"),
    "form": (_of_form, _is_form, "a form in UTF-8", "application/x-www-form-urlencoded"),
}
"""By kind: what reads a body, which types it is for, and what a body of it is called."""
