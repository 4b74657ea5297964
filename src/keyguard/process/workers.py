"""How many processes serve an app, as far as one of them can see it when it starts.

Servers tell it nowhere in one way: the environment's `WEB_CONCURRENCY` is common, the rest is the server's own command
line or configuration. If they differ, the largest number counts: it is used to divide limits, and to warn.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from keyguard.checks import is_whole
from keyguard.errors import ConfigurationError

_OPTIONS = {
    "gunicorn": ("--workers", "-w"),
    "hypercorn": ("--workers", "-w"),
    "uvicorn": ("--workers",),
    "granian": ("--workers",),
    "fastapi": ("--workers",),
}
"""Servers, and how their command lines name the number of processes."""


def seen_workers() -> int | None:
    """Return the number of processes that serve the app; `None` if nothing tells it."""
    return max([*_told_by_the_environment(), *_told_by_the_command_line(), *_told_by_the_server()], default=None)


def checked_workers(workers: int | None, otherwise: int) -> int:
    """Return how many processes serve the app: as told, as far as it can be seen, or `otherwise`."""
    if workers is None:
        return seen_workers() or otherwise
    if not is_whole(workers) or workers < 1:
        raise ConfigurationError(f"workers is the number of processes that serve the app, at least 1, not {workers!r}")
    return workers


def _told_by_the_environment() -> Iterator[int]:
    yield from _number(os.environ.get("WEB_CONCURRENCY", ""))


def _told_by_the_command_line() -> Iterator[int]:
    words = list(getattr(sys, "argv", ()))  # an embedded interpreter may have none
    if not words:
        return
    command = Path(words[0])
    name = command.parent.name if command.stem == "__main__" else command.stem
    if name not in _OPTIONS:
        return
    yield from _number(os.environ.get(f"{name.upper()}_WORKERS", ""))
    if name == "gunicorn":
        import shlex

        with suppress(ValueError):  # gunicorn itself says what is wrong with it
            words = shlex.split(os.environ.get("GUNICORN_CMD_ARGS", "")) + words
    yield from _options(words, _OPTIONS[name])


def _options(words: list[str], names: Iterable[str]) -> Iterator[int]:
    for place, word in enumerate(words):
        for name in names:
            if word == name:
                yield from _number("".join(words[place + 1 : place + 2]))
            elif word.startswith(f"{name}="):
                yield from _number(word.partition("=")[2])
            elif len(name) == 2 and word.startswith(name):
                yield from _number(word[2:])


def _told_by_the_server() -> Iterator[int]:
    """Ask the server that is just loading the app: its objects stand in the frames of this thread."""
    # It is there only if uWSGI itself has put it there.
    yield from _number(getattr(sys.modules.get("uwsgi"), "numproc", None))
    frame: Any = sys._getframe()
    while frame is not None:
        if str(frame.f_globals.get("__name__")).partition(".")[0] in _OPTIONS:
            for name in ("self", "config"):
                held = frame.f_locals.get(name)
                for settings in (held, getattr(held, "cfg", None), getattr(held, "config", None)):
                    yield from _number(getattr(settings, "workers", None))
        frame = frame.f_back


def _number(told: object) -> Iterator[int]:
    if isinstance(told, str):
        told = told.strip()
        told = int(told) if told.isascii() and told.isdigit() and len(told) < 10 else None
    if is_whole(told) and told >= 1:
        yield told
