"""How a request spells its path: what the app routes, and what else the path could be for it.

Rules:
- The path is the one after the prefix that the app is mounted under. Servers send that prefix inside of the path or
  beside it, some frameworks ignore it, and apps inside of a guard may cut off other prefixes. So there are other
  paths too: what closes a door holds for each of them.
- What opens a door goes by the path. A prefix that some app inside goes by, nobody knows for which requests, must not
  make another path of it.
"""

from __future__ import annotations

from typing import Any

from keyguard.http.paths import ambiguous, misplaced, readings, rests, strip_root


class Inside:
    """The app and all that stands in front of it, as far as something hangs on it. This one is for nothing of note."""

    app: Any = None
    """That app, if it is known."""
    cut: str = ""
    """A prefix that the app cuts off paths by itself."""
    root: str = ""
    """The prefix that the app goes by, in the place of the server's."""

    @property
    def before(self) -> str:
        """Return the prefix that a router has cut off before the request comes to the guards, and noted nowhere."""
        return ""

    @property
    def hidden(self) -> tuple[str, ...]:
        """Return prefixes that some app inside goes by; for which requests is not known."""
        return ()

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Return these, and all others that something inside might cut off."""
        return ()

    @property
    def cuts_unseen(self) -> bool:
        """Whether something inside may cut off a prefix that is not among these."""
        return False

    def tell_of_cors(self) -> None:
        """Warn, once, of middleware inside that makes answers readable for browsers, and not those of guards."""

    def may_cut(self, path: str) -> bool:
        """Whether something inside may cut off a part of this path."""
        return False

    @property
    def answers_preflights(self) -> bool:
        """Whether CORS preflights are answered before any view runs."""
        return False

    def seen(self) -> tuple[bool, tuple[Any, ...]]:
        """Tell whether an app of the other world stands inside, and where the guards inside look for credentials."""
        return False, ()


NOTHING = Inside()


class Spelling:
    """The path of one request."""

    __slots__ = ("_hidden", "_inside", "_others", "_tails", "ambiguous", "path", "raw_path", "root")

    def __init__(
        self, path: str, raw_path: bytes | None, root: str = "", inside: Inside = NOTHING, tail: str | None = None
    ) -> None:
        """Take `path`, which follows the prefix `root`, and `tail`, which follows it if it stands elsewhere."""
        self._inside = inside
        self.root = root
        """The prefix before it."""
        self._tails: tuple[str, ...] = () if tail is None else (tail,)
        self._others: set[str] | None = None
        self._hidden: set[str] | None = None
        if inside.cut:
            path = self._cut_off(path, inside.cut)
        self.path = path
        """Decoded, after the prefix: what the app routes."""
        self.raw_path = raw_path
        self.ambiguous = bool(self._tails) or ambiguous(path, raw_path)
        """Whether it could be read as another path than that."""

    def _cut_off(self, path: str, prefix: str) -> str:
        if misplaced(path, prefix):
            self._tails += (path.partition(prefix)[2],)
        self.root += prefix
        return strip_root(path, prefix)

    @property
    def others(self) -> set[str]:
        """Return other paths that the app may route the request as, apart from how it is spelled."""
        if self._others is None:
            self._others = readings(self.path, self.root, self._inside.prefixes)
            if self._inside.cuts_unseen:
                self._others.update(rests(self.path))
        return self._others

    @property
    def hidden(self) -> set[str]:
        """Return paths as which an app inside that goes by a prefix routes it; none if no such prefix is there."""
        if self._hidden is None:
            self._hidden = readings(self.path, "", self._inside.hidden) if self._inside.hidden else set()
        return self._hidden

    @property
    def texts(self) -> list[str]:
        """Return all texts in which its names could stand, for a path that is ambiguous."""
        return [self.path, *("/" + tail.lstrip("/") for tail in self._tails)]

    @property
    def prefixed(self) -> bool:
        """Whether some first segments may be a prefix."""
        return bool(self.root or self._inside.prefixes or self._inside.cuts_unseen)
