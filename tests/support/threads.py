"""The threads of one test: what others have left in the same process is still at work, and may begin more."""

from __future__ import annotations

import threading

import pytest


class Begun:
    """The threads that this one begins from now on, itself or by way of those."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.all: list[threading.Thread] = []
        here, start = threading.current_thread(), threading.Thread.start

        def noted(thread: threading.Thread) -> None:
            if threading.current_thread() in (here, *self.all):
                self.all.append(thread)
            start(thread)

        patch.setattr(threading.Thread, "start", noted)

    def alive(self, name: str = "") -> list[threading.Thread]:
        """Return those that run, of this name or of any."""
        return [thread for thread in self.all if thread.is_alive() and name in ("", thread.name)]
