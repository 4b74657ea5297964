"""A shop with a ledger, by a clock that is set by hand, and an operator who asks why."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from keyguard import APIKeys, Keyguard, Usage
from keyguard.cli.command_line import main
from keyguard.testing import ManualClock
from tests.support.harness import Answer, Ask, ask_wsgi

KEY_ID = "4fK2mQ9xTzLb"
"""How transcripts write the id of the key."""


class Shop:
    """A stack around an app that has its routes from a table."""

    def __init__(self, folder: Path, *guards: Any, keys: APIKeys | None = None, store: Any = None) -> None:
        self.clock = ManualClock()
        self.inside: Any = None
        """Called within the app."""
        self.usage = Usage()
        self.guard = Keyguard(
            *([one for one in guards if getattr(one, "outer", False)]),
            keys or APIKeys(),
            *([one for one in guards if not getattr(one, "outer", False)]),
            store=store or f"sqlite:///{folder}/k.db",
            clock=self.clock,
            usage=self.usage,
            name="shop",
        )
        self.app = self.guard.wsgi(self.shop)
        issued = self.guard.keys.issue("Acme Ltd", subject="acme", name="nightly sync", plan="pro", actor="ada")
        self.key, self.id = issued.key.reveal(), issued.record.id

    def shop(self, environ: Any, start_response: Any) -> list[bytes]:
        if self.inside is not None:
            self.inside()
        if environ["PATH_INFO"] == "/broken":
            raise LookupError("of the app")
        start_response("200 OK", [("Content-Length", "2")])
        return [b"ok"]

    def ask(
        self, target: str = "/v1/orders", *, times: int = 1, every: str = "", key: str | None = None, **more: Any
    ) -> Answer | None:
        """Ask so many times; return the last answer."""
        answer = None
        headers = (("X-API-Key", self.key if key is None else key),)
        for _ in range(times):
            with suppress(LookupError):
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
