"""An app that has used its stores before the server forks: a stack for each that KEYGUARD_STORES names.

What a stack guards is below a path of its own. Its keys are told in KEYGUARD_KEYS.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from keyguard import APIKeys, Keyguard, RateLimit, Request, ResponseCache
from tests.support.harness import Ask, ask_wsgi

CALLERS = 4


def everybody(request: Request) -> str:
    return "everybody"


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    subject = environ["keyguard.request"].identity.subject
    fields = [("Content-Type", "application/json")]
    if environ["PATH_INFO"].endswith("/cached"):  # stale at once, and refreshed in the background by whoever asks
        fields.append(("Cache-Control", "public, max-age=0, stale-while-revalidate=600"))
    else:
        time.sleep(0.005)  # long enough for another worker to take the next request
    body = json.dumps([subject, os.getpid()]).encode()
    start_response("200 OK", [*fields, ("Content-Length", str(len(body)))])
    return [body]


guards: dict[str, Keyguard] = {}
stacks: dict[str, Any] = {}
for store in os.environ.get("KEYGUARD_STORES", "memory://").split():
    kind = store.partition(":")[0]
    guards[kind] = Keyguard(
        APIKeys(),
        RateLimit("20/hour", by=everybody, name="all", paths=[f"/{kind}/limited"]),
        RateLimit("1000000/hour", by="key", name="each"),
        ResponseCache(),
        store=store,
    )
    stacks[kind] = guards[kind].wsgi(app)


def wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    answer: Iterable[bytes] = stacks[environ["PATH_INFO"].split("/")[1]](environ, start_response)
    return answer


def use(kind: str) -> dict[str, str]:
    """Issue keys, and use all that a store has, in this process, which all workers are children of."""
    keys = {f"caller-{number}": guards[kind].keys.issue(f"caller-{number}").key.reveal() for number in range(CALLERS)}
    for name, key in keys.items():
        answer = ask_wsgi(wsgi, Ask(f"/{kind}/who", (("X-API-Key", key),)), lint=False)
        assert json.loads(answer.body) == [name, os.getpid()]
    cached = ask_wsgi(wsgi, Ask(f"/{kind}/cached", (("X-API-Key", keys["caller-0"]),)), lint=False)
    assert cached.status == 200
    return keys


KEYS = Path(os.environ.get("KEYGUARD_KEYS", os.devnull))
if KEYS.suffix and not KEYS.exists():
    told = {kind: use(kind) for kind in guards}
    whole = KEYS.with_suffix(f".{os.getpid()}")  # several workers may load the app at once
    whole.write_text(json.dumps(told))
    whole.replace(KEYS)
