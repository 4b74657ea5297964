"""A shop with a ledger, by a clock that is set by hand, and an operator who asks why."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flask
import pytest

from keyguard import APIKeys, Keyguard, Usage
from keyguard.cli.command_line import main
from keyguard.stores.sqlite import SQLiteStore
from keyguard.testing import ManualClock
from tests.support.harness import Answer, Ask, ask_wsgi

KEY_ID = "4fK2mQ9xTzLb"
"""How transcripts write the id of the key."""


class Shop:
    """A Flask app in a stack with a ledger, on SQLite. `outer` are guards before those that look for keys."""

    def __init__(
        self,
        folder: Path,
        *guards: Any,
        outer: Any = (),
        keys: APIKeys | None = None,
        kind: type[SQLiteStore] = SQLiteStore,
        every: str = "2 seconds",
    ) -> None:
        self.clock = ManualClock()
        self.inside: Callable[[], object] = lambda: None
        """Called within the app."""
        self.usage = Usage(every=every)
        self.store = kind(folder / "k.db", clock=self.clock)
        self.guard = Keyguard(
            *outer, keys or APIKeys(), *guards, store=self.store, clock=self.clock, usage=self.usage, name="shop"
        )
        app = flask.Flask("shop")
        for rule in ("/v1/export", "/v1/orders", "/v1/orders/<id>"):
            app.add_url_rule(rule, rule, self._view, methods=["GET", "POST"])
        app.add_url_rule("/v1/broken", "broken", self._broken)
        self.guard.init_app(app)
        self.app = app.wsgi_app
        issued = self.guard.keys.issue("Acme Ltd", subject="acme", name="nightly sync", plan="pro", actor="ada")
        self.key, self.id = issued.key.reveal(), issued.record.id

    def _view(self, id: str = "") -> str:
        self.inside()
        return "ok"

    def _broken(self) -> str:
        raise LookupError("of the app")

    def ask(
        self, target: str = "/v1/orders", *, times: int = 1, every: str = "", key: str | None = None, **more: Any
    ) -> Answer:
        """Ask so many times; return the last answer."""
        headers = (("X-API-Key", self.key if key is None else key),)
        for _ in range(times):
            answer = ask_wsgi(self.app, Ask(target, headers=headers, **more), lint=False)
            if every:
                self.clock.advance(every)
        return answer

    def rest(self, span: str = "2 seconds") -> None:
        """Let time pass: the ledger is written."""
        self.clock.advance(span)
        self.usage.flush()

    def why(self, capsys: pytest.CaptureFixture[str], *words: str) -> str:
        """What `keyguard why` says, with the id of the key as transcripts write it."""
        self.usage.flush()
        capsys.readouterr()
        code = main(["why", *words], app=self.guard, prog="keyguard")
        said = capsys.readouterr()
        assert (code, said.err) == (0, ""), said
        assert self.key not in said.out
        return re.sub(re.escape(self.id), KEY_ID, said.out)
