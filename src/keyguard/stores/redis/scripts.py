"""The Lua scripts, put together of parts, and the kinds of limit that they know.

A script that decides holds the kinds of limit that its call uses, and no other: a server has less to do for it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from hashlib import sha1
from importlib.resources import files

from keyguard.errors import ConfigurationError

KINDS = {
    "log": (1, "window"),
    "slices": (2, "window"),
    "smooth": (3, "smooth"),
    "quota": (4, "quota"),
    "credits": (5, "credits"),
    "slots": (7, "slots"),
    "strikes": (8, "strikes"),
}
"""By `Limit.script`: the number of a kind on the wire, and the file in `lua/kinds` that holds it."""

HOLDS = "holds"
"""The part that a script has besides its kinds if units of these limits may be held."""

LESSONS = "lessons"
"""The part that a script has besides if it is told what came of upstream keys."""

_CHOOSING = ("acquire", "learn")
_DECIDING = ("authenticate", "renew", "settle", "take")
_VALUES = ("put", "read", "swap")


def _read() -> dict[str, bytes]:
    """Read all parts: what a packager has left out shows at the start, not at a request."""
    folder = files("keyguard.stores.redis") / "lua"
    kinds = {f"kinds/{file}" for _, file in KINDS.values()}
    try:
        names = ("base", "decisions", "groups", HOLDS, LESSONS, *_CHOOSING, *_DECIDING, *_VALUES, *kinds)
        return {name: folder.joinpath(*f"{name}.lua".split("/")).read_bytes() for name in names}
    except OSError as error:
        raise ConfigurationError(
            f"keyguard's Lua scripts were left out where it was packaged ({error}): include the data files of "
            "keyguard.stores.redis, lua/**/*.lua (PyInstaller: --collect-data keyguard)"
        ) from error


_PARTS = _read()


def script_name(what: str, kinds: Iterable[str]) -> str:
    """Name the script that does something with limits of some kinds, named by their files; `HOLDS` is another one."""
    return " ".join([what, *sorted(set(kinds))])


def script_of(name: str, parts: dict[str, bytes]) -> bytes:
    """Put a script together."""
    what, *kinds = name.split(" ")
    used = ["base", *(["decisions"] if what in _DECIDING else []), *(["groups"] if what in _CHOOSING else [])]
    used += [kind if kind in (HOLDS, LESSONS) else f"kinds/{kind}" for kind in kinds]
    used.append(what)
    return b"".join([parts[part] for part in used])


@cache
def script_text(name: str) -> tuple[bytes, bytes]:
    """Return a script and its digest."""
    text = script_of(name, _PARTS)
    return text, sha1(text, usedforsecurity=False).hexdigest().encode()
