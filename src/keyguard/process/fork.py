"""Parts of keyguard that belong to one process, and are made anew in its children.

Locks that another thread held in the parent are held for ever in a child; connections, event loops, threads and random
names would be shared with the parent. Python tells of a fork that it makes itself. A server written in C, such as
uWSGI, forks without a word: so each way into keyguard calls `check_process` before it uses anything of the kind.
"""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, ParamSpec, Protocol

P = ParamSpec("P")


class Renewable(Protocol):
    """Something with a state that does not survive a fork."""

    def after_fork(self) -> None:
        """Make anew what belongs to one process. It is called in the child, before other code of it runs."""
        ...


_renewables: weakref.WeakSet[Renewable] = weakref.WeakSet()
known_process = os.getpid()
"""The process for which all is renewed. A driver compares it for itself: each request asks."""
_renewing: dict[int, threading.Lock] = {}
"""A lock for each process: no child waits for one that a thread of its parent held."""


def renew_after_fork(renewable: Renewable) -> None:
    """Have `renewable.after_fork()` called in every child of this process, as long as the object lives."""
    _renewables.add(renewable)


def check_process() -> None:
    """Renew all that belongs to one process, if this is another one than before."""
    if os.getpid() != known_process:
        _renew()


def _renew() -> None:
    global known_process
    process = os.getpid()
    with _renewing.setdefault(process, threading.Lock()):  # the first thread to come; the others wait for it
        if process != known_process:
            for renewable in _all():
                renewable.after_fork()
            known_process = process


def _all() -> list[Renewable]:
    while True:
        try:
            return list(_renewables)
        except RuntimeError:  # another thread has just made one
            continue


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)


def forks_in_c() -> bool:
    """Tell whether this is uWSGI's master, or what becomes it: it loads the app, and forks its workers then.

    uWSGI gives the interpreter's lock away around that fork. A thread that takes it at that moment holds it in the
    workers for ever, and they never begin. So no operation leaves a thread behind there: what would run in one runs in
    place (`run_aside`), or the thread is ended, and waited for, before the operation returns.
    """
    uwsgi = sys.modules.get("uwsgi")  # only uWSGI has it; elsewhere this is all there is to do
    return uwsgi is not None and _is_master(uwsgi)


def _is_master(uwsgi: Any) -> bool:
    roles = [getattr(uwsgi, name, None) for name in ("worker_id", "mule_id", "i_am_the_spooler")]
    return roles[0] is not None and not any(role() for role in roles if role is not None)


def run_aside(name: str, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> threading.Thread | None:
    """Call a function in a daemon thread of that name, which is returned; in place if this process `forks_in_c`.

    Raises `RuntimeError` if there is no room for a thread. A daemon, since a process that is told to end does not wait
    for what hangs.
    """
    if forks_in_c():
        function(*args, **kwargs)
        return None
    thread = threading.Thread(target=function, args=args, kwargs=kwargs, name=name, daemon=True)
    thread.start()
    return thread


class ProcessLock:
    """A lock of a module's own, which is free in a child even if a thread of its parent's held it."""

    def __init__(self) -> None:
        self.after_fork()
        renew_after_fork(self)

    def after_fork(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        check_process()
        self._lock.acquire()

    def __exit__(self, *exception: object) -> None:
        self._lock.release()
