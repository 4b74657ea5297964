"""One story for every client: a key runs dry and the pool goes on with the next, then all run dry.

Also a program, for clients of which two versions cannot be loaded by one process: `python -m tests.upstream.sdks.story
SDK...` prints its rows as JSON.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Self

from keyguard import Key, KeyPool
from keyguard.testing import FakeProvider
from tests.upstream.sdks.clients import SDKS, Sdk

TEXT = "Hello from the fake provider."
FORMS = [(way, form) for way in ("blocking", "awaited") for form in ("plain", "stream")]


@dataclass(frozen=True)
class Row:
    """What was seen of one client, in one way of calling it."""

    sdk: str
    version: str
    way: str
    form: str
    text: str
    """What it got although the first key was dry."""
    hits: dict[str, int]
    """How often each key was sent then."""
    raised: str
    """The exception with which it told that all were dry."""
    status: int | None
    """The status that the exception tells."""
    exhausted_hits: dict[str, int]
    """How often each key was sent then."""
    again: str
    """The exception of the same call once more, while all keys are known to be dry."""
    again_hits: dict[str, int]
    leaked: list[str]
    """Where the placeholder stood in what was sent, and which logs told a key."""


def seen(name: str, way: str, form: str) -> Row:
    """Play the story."""
    sdk = SDKS[name]
    provider = a_provider(sdk)
    with _Logs() as logs, provider.serving() as url:
        pool = a_pool(sdk, url)
        provider.script("sk-A", [provider.error("exhausted", wait=300)])
        text = _called(sdk, pool, url, way, form)
        hits = dict(provider.hits)
        provider.hits.clear()
        provider.script("sk-B", [provider.error("exhausted", wait=300)])
        raised, status = _failed(sdk, pool, url, way, form)
        exhausted_hits = dict(provider.hits)
        provider.hits.clear()
        again, _ = _failed(sdk, pool, url, way, form)
        again_hits = dict(provider.hits)
        leaked = [*provider.saw(pool.placeholder), *logs.told]
        pool.close()
    return Row(
        name, version(sdk.package), way, form, text, hits, raised, status, exhausted_hits, again, again_hits, leaked
    )


class _Logs(logging.Handler):
    """All logs at DEBUG, of which it is noted who tells a key."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.told: set[str] = set()
        self.seen = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.seen += 1
        text = f"{record.getMessage()} {record.args}"
        if "sk-A" in text or "sk-B" in text:
            self.told.add(record.name)

    def __enter__(self) -> Self:
        self._level = logging.root.level
        logging.root.setLevel(logging.DEBUG)
        logging.root.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        logging.root.removeHandler(self)
        logging.root.setLevel(self._level)
        assert self.seen


def a_provider(sdk: Sdk) -> FakeProvider:
    return FakeProvider(sdk.profile, keys={"sk-A": "a", "sk-B": "b"}, text=TEXT)


def a_pool(sdk: Sdk, url: str) -> KeyPool:
    keys = [Key("a", "sk-A"), Key("b", "sk-B", rank=1)]
    return KeyPool(keys, profile=sdk.profile, origin=url, name=sdk.profile, max_wait=1)


def _called(sdk: Sdk, pool: KeyPool, url: str, way: str, form: str) -> str:
    stream = form == "stream"
    return asyncio.run(sdk.awaited(pool, url, stream)) if way == "awaited" else sdk.plain(pool, url, stream)


def _failed(sdk: Sdk, pool: KeyPool, url: str, way: str, form: str) -> tuple[str, int | None]:
    try:
        return f"no exception, but {_called(sdk, pool, url, way, form)!r}", None
    except Exception as error:
        kind = type(error)
        status = getattr(error, "status_code", None) or getattr(error, "code", None)
        return f"{kind.__module__.partition('.')[0]}.{kind.__name__}", status


if __name__ == "__main__":
    print(json.dumps([asdict(seen(name, way, form)) for name in sys.argv[1:] for way, form in FORMS]))
