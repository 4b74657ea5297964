"""A response that a guard gives, or passes on: a status, header fields, a body.

Headers are an ordered sequence of pairs, never a dict: two `Set-Cookie` lines are two lines.
"""

from __future__ import annotations

import enum
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from keyguard.flow import Flow
    from keyguard.refusal import Refusal


class AppBody(enum.Enum):
    """The type of `APP`."""

    APP = "app"


APP: Final = AppBody.APP
"""The body of a response that the app itself is still to send."""


def field_value(value: str) -> str:
    """Return `value` if it can stand in a header field (RFC 9110, section 5.5); else raise `ValueError`."""
    if "\n" in value or "\r" in value or "\0" in value:  # one by one: that is a third of what `isprintable` takes
        raise ValueError("a header field cannot contain CR, LF or NUL")
    if not value.isascii():
        value.encode("latin-1")
    return value


class FieldNames:
    """Names of fields that are added to many responses."""

    __slots__ = ("spelled",)

    def __init__(self, *names: str) -> None:
        self.spelled = {name.lower().encode("latin-1"): name for name in names}
        """The names by how ASGI has them."""


class ReadyFields:
    """Two fields that are lists and are added to many responses. The first one is the same in all of them."""

    __slots__ = ("first", "first_raw", "second", "second_raw", "sizes")

    def __init__(self, name: str, value: str, second: str) -> None:
        self.first = name, value
        self.first_raw = name.lower().encode("latin-1"), value.encode("latin-1")
        """The same as ASGI has it."""
        self.second = second
        """The name of the other one."""
        self.second_raw = second.lower().encode("latin-1")
        self.sizes = frozenset((len(name), len(second)))
        """Most fields that a response has already are told apart from these by the length of their names."""


class Headers:
    """Header fields in order. Names compare without regard to case; assignment replaces every line of a name."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self.pairs: list[tuple[str, str]] = list(pairs)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return iter(self.pairs)

    def __len__(self) -> int:
        return len(self.pairs)

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def __repr__(self) -> str:
        return f"Headers({list(self)!r})"

    def get(self, name: str) -> str | None:
        """Return the first line of this name, or `None`."""
        name, size = name.lower(), len(name)
        # Lengths are compared first: most names differ in that already.
        return next((value for key, value in self if len(key) == size and key.lower() == name), None)

    def get_all(self, name: str) -> list[str]:
        """Return every line of this name, in order."""
        name, size = name.lower(), len(name)
        return [value for key, value in self if len(key) == size and key.lower() == name]

    def set(self, name: str, value: str) -> None:
        """Put one line of this name in the place of all there were."""
        self.remove(name)
        self.add(name, value)

    def add(self, name: str, value: str) -> None:
        """Append a line."""
        self.pairs.append((name, field_value(value)))

    def remove(self, name: str) -> None:
        """Drop every line of this name."""
        name, size = name.lower(), len(name)
        self.pairs = [pair for pair in self.pairs if len(pair[0]) != size or pair[0].lower() != name]

    def set_length(self, length: int) -> None:
        """Put one `Content-Length` in the place of all there were."""
        for name, _ in self.pairs:
            if len(name) == 14:  # as long as its name
                self.remove("Content-Length")
                break
        self.pairs.append(("Content-Length", str(length)))

    def join(self, name: str, value: str) -> None:
        """Add to a field that is a list (RFC 9110, section 5.6.1): a member more, still one line."""
        present = self.get_all(name)
        if present:
            self.set(name, ", ".join([*present, value]))
        else:
            self.add(name, value)

    def join_ready(self, fields: ReadyFields, value: bytes) -> None:
        """Do the same for two fields at once. The second has this value, well-formed and in ISO 8859-1."""
        sizes, pairs = fields.sizes, self.pairs
        for name, _ in pairs:
            if len(name) in sizes:
                self._join_each(fields, value)
                return
        pairs.append(fields.first)
        pairs.append((fields.second, value.decode("latin-1")))

    def _join_each(self, fields: ReadyFields, value: bytes) -> None:
        self.join(*fields.first)
        self.join(fields.second, value.decode("latin-1"))


_PART = 48
"""Bytes that a part takes besides what it says."""


class ByteBudget:
    """Bytes that copies may take together while they are made, so that many slow clients do not fill the memory."""

    __slots__ = ("_lock", "left")

    def __init__(self, size: int) -> None:
        self.left = size
        self._lock = threading.RLock()  # the garbage collector may come to a copy in the midst of it

    def take(self, size: int) -> bool:
        """Take so many bytes more. False if fewer are left."""
        with self._lock:
            if size > self.left:
                return False
            self.left -= size
            return True

    def give(self, size: int) -> None:
        """Give back what was taken."""
        with self._lock:
            self.left += size


class Tee:
    """Keeps a copy of the app's body while it flows on to the client.

    One of the two is called: `await done(body)` once the body is known to be whole, or `cut(why)` if the copy is not
    whole: it is longer than `limit` bytes or not as long as `length`, the `budget` has no bytes left for it, the app
    failed, or the client has gone. `cut` comes after `done` if the app goes on beyond its `Content-Length`. `done`
    awaits steps only; `cut` never awaits.

    A body that is as long as `length` is whole, before its last byte leaves. One whose end nothing but its last message
    tells is whole once the app has returned as well: some middleware ends bodies whose app has failed. `waits` is
    called then, at that message. With `late` no body is whole before that.
    """

    __slots__ = (
        "_held",
        "_parts",
        "_taken",
        "budget",
        "crowded",
        "cut",
        "done",
        "ended",
        "late",
        "length",
        "limit",
        "open",
        "waits",
    )

    def __init__(
        self,
        limit: int,
        done: Callable[[bytes], Flow[None]],
        cut: Callable[[str], None],
        *,
        length: int | None = None,
        budget: ByteBudget | None = None,
        waits: Callable[[], None] | None = None,
        late: bool = False,
    ) -> None:
        self.limit = limit
        self.done = done
        self.cut = cut
        self.waits = waits
        self.late = late
        self.budget = budget
        self.length = length
        """How many bytes the body has, as its `Content-Length` says; `None` if it does not say."""
        self.open = True
        """Whether neither of the two has been called."""
        self.ended = False
        """Whether all of it has come, as far as can be seen, and only the app has not returned."""
        self.crowded = False
        """Whether the budget had no bytes left for it."""
        self._parts: list[bytes] = []
        self._held = 0
        self._taken = 0

    def __del__(self) -> None:  # a server may drop a body without closing it
        self._leave()

    @property
    def outgrown(self) -> bool:
        """Whether more has come than `limit`."""
        return self._held > self.limit

    def feed(self, part: bytes, *, last: bool, sure: bool) -> Flow[None] | None:
        """Note a part of the body. Returns what is to be run before it leaves, if the body is known to be whole then.

        `sure`: if it is the last one, whoever says so knows that nothing was left out.
        """
        if not self.open:
            if part and self._held == self.length:
                self._held += len(part)
                self.cut("it is longer than Content-Length says")
            return None
        if self.ended:
            if part:
                self.close("it went on after its end")
            return None
        if part:
            self._held += len(part)
            if self._held > self.limit:
                self.close("it is larger than an entry may be")
                return None
            self._parts.append(bytes(part))
        if self.length is None:
            whole = last
        elif self._held == self.length:
            whole = sure = True  # the client has it all by then, whatever the app still says
        elif last or self._held > self.length:
            self.close("its length is not what Content-Length says")
            return None
        else:
            whole = False
        if not whole:
            if part and self.budget is not None:
                size = len(part) + _PART
                if not self.budget.take(size):
                    self.crowded = True
                    self.close("too much is being copied at the moment")
                    return None
                self._taken += size
            return None
        if sure and not self.late:
            return self._finish()
        self.ended = True
        if self.waits is not None:
            self.waits()
        return None

    def returned(self) -> Flow[None] | None:
        """Note that the app has returned, and not failed. Returns what is to be run, if the body is whole."""
        return self._finish() if self.open and self.ended else None

    def _finish(self) -> Flow[None]:
        self.open = False
        parts, self._parts = self._parts, []
        self._leave()
        return self.done(parts[0] if len(parts) == 1 else b"".join(parts))

    def close(self, why: str) -> None:
        """Note that nothing more comes."""
        if self.open:
            self.open = False
            self._parts = []
            self._leave()
            self.cut(why)

    def _leave(self) -> None:
        taken, self._taken = self._taken, 0
        if taken and self.budget is not None:
            self.budget.give(taken)


class BodyFilter(Protocol):
    """Sees the app's body part by part on its way, and may hold some of it back."""

    def feed(self, part: bytes, *, last: bool) -> bytes:
        """Return what goes on in the place of a part, perhaps an empty one. `last`: the body has come to its end."""


class Response:
    """A response head, and either a body or `APP`: the body that the app is about to send."""

    __slots__ = ("body", "filters", "headers", "refusal", "sized", "status", "tees")

    def __init__(
        self,
        status: int,
        headers: Headers | Iterable[tuple[str, str]] = (),
        body: bytes | AppBody = b"",
        *,
        refusal: Refusal | None = None,
    ) -> None:
        self.status = status
        self.headers = headers if isinstance(headers, Headers) else Headers(headers)
        self.body = body
        self.refusal = refusal
        """Why, if the response is a refusal by a guard."""
        self.sized = False
        """Whether `Content-Length` is in order already, or rightly absent: it is set by the driver if not."""
        self.tees: list[Tee] | None = None
        self.filters: list[BodyFilter] | None = None

    def filter(self, one: BodyFilter) -> None:
        """Have the app's body go through a filter, before any copy is made. Only for a response with the body `APP`."""
        self.filters = [*(self.filters or ()), one]

    def tee(self, tee: Tee) -> None:
        """Copy the app's body while it is sent. Only for a response whose body is `APP`."""
        if self.tees is None:
            self.tees = [tee]
        else:
            self.tees.append(tee)

    def __repr__(self) -> str:
        return f"<Response {self.status}>"
