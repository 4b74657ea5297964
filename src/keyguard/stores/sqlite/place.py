"""Where an SQLite file lies: who may read it, who may write it, and what its file system can do.

Rules:
- A file that is made here is its user's alone (0600), whatever the umask. SQLite gives its journals (`-wal`, `-shm`,
  `-journal`) the mode of the file.
- The mode of a file that is there already is whoever's who gave it that: a group may be meant to share it. If all users
  of the machine can read or write it, that is warned of.
- A file or a folder that cannot be written is told at the start, with its path and the user.
"""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from keyguard.logs import logger
from keyguard.process.fork import ProcessLock

log = logger("keyguard.stores")

JOURNALS = ("-wal", "-shm", "-journal")
_MODE = 0o600

_told: set[tuple[str, str]] = set()
"""The warnings that have been given, by path: each once a process."""

_making = ProcessLock()
"""Closing a file takes away the locks that this process has on it, by whatever connection."""


def make_private(path: Path) -> None:
    """Make an empty file for its user alone, if there is none. Raises `OSError`."""
    real = os.path.realpath(path)  # a link to what is not there yet counts as there
    with _making:
        try:
            made = os.open(real, os.O_RDWR | os.O_CREAT | os.O_EXCL, _MODE)
        except FileExistsError:
            return
        try:
            if hasattr(os, "fchmod"):
                os.fchmod(made, _MODE)  # the umask may take even that away
        finally:
            os.close(made)


def warn_of_readers(path: Path) -> None:
    """Warn, once, if other users of the machine can read or write a file or one of its journals."""
    if os.name != "posix":
        return
    for place in (path, *(Path(f"{path}{end}") for end in JOURNALS)):
        with suppress(OSError):
            mode = stat.S_IMODE(place.stat().st_mode)
            if mode & 0o006:
                _warn(
                    path,
                    "readers",
                    f"all users of this machine can {'write' if mode & 0o002 else 'read'} {place} (mode {mode:04o}), "
                    f"where keyguard keeps keys and counters: chmod 600 it, and its journals beside it",
                )
                return


def warn_of_journal(path: Path, mode: str) -> None:
    """Warn, once, that a file system takes no write-ahead log."""
    _warn(
        path,
        "journal",
        f"the file system of {path} refuses SQLite's write-ahead log (journal mode {mode!r} is used instead): it is "
        f"slower, and readers wait for writers; network file systems may also lose locks. Use a local disk",
    )


def _warn(path: Path, what: str, text: str) -> None:
    if (str(path), what) not in _told:
        _told.add((str(path), what))
        log.warning("%s", text)


def why_unusable(path: Path, error: Exception) -> str:
    """Say what cannot be used, by whom and why, in words for who starts the app."""
    return f"cannot use {path} as a store for user {_user()}: {_reason(path) or error}"


def _reason(path: Path) -> str:
    folder = path.parent
    if not folder.exists():
        return f"there is no folder {folder}"
    if not folder.is_dir():
        return f"{folder} is not a folder"
    if path.is_dir():
        return "it is a folder"
    for place in (path, *(Path(f"{path}{end}") for end in JOURNALS)):
        if place.exists() and not _writable(place):
            return f"{place} is read-only for that user ({_owned(place)})"
    if not _writable(folder):
        return f"the folder {folder} is read-only for that user ({_owned(folder)}): SQLite keeps its journals there"
    return ""


def _writable(place: Path) -> bool:
    effective = os.access in os.supports_effective_ids
    needed = os.W_OK | os.X_OK if place.is_dir() else os.R_OK | os.W_OK
    return os.access(place, needed, effective_ids=effective)


def _owned(place: Path) -> str:
    try:
        found = place.stat()
    except OSError as error:
        return str(error)
    return f"mode {stat.S_IMODE(found.st_mode):04o}, of {_name_of(found.st_uid)}"


def _user() -> str:
    return _name_of(os.geteuid()) if hasattr(os, "geteuid") else "this one"


def _name_of(number: int) -> str:
    try:
        import pwd

        return f"{pwd.getpwuid(number).pw_name!r} ({number})"
    except (ImportError, KeyError):
        return str(number)


def spare(folder: Path) -> int:
    """Return how many bytes are free on the disk of a folder; very many if nobody knows."""
    try:
        found = os.statvfs(folder)
    except (AttributeError, OSError):
        return 2**63 - 1
    return found.f_bavail * found.f_frsize


def check_writable(connection: sqlite3.Connection, busy: Callable[[sqlite3.Error], bool]) -> None:
    """Raise `sqlite3.Error` if nothing can be written: SQLite opens such a file too, and only the first decision fails.

    A file that another process is writing to just now can be written to.
    """
    try:
        connection.execute("DELETE FROM entries WHERE 0")  # a transaction alone may be begun all the same
    except sqlite3.OperationalError as error:
        if not busy(error):
            raise
