"""An app that has used its store before the server forks. KEYGUARD_STORE names it; keys are told in KEYGUARD_KEYS."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from keyguard import APIKeys, Keyguard, RateLimit, Request, ResponseCache
from tests.harness import Ask, ask_wsgi

CALLERS = 12


def everybody(request: Request) -> str:
    return "everybody"


guard = Keyguard(
    APIKeys(),
    RateLimit("20/hour", by=everybody, name="all", paths=["/limited"]),
    RateLimit("1000000/hour", by="key", name="each"),
    ResponseCache(),
    store=os.environ.get("KEYGUARD_STORE", "memory://"),
)


def app(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    subject = environ["keyguard.request"].identity.subject
    fields = [("Content-Type", "application/json")]
    if environ["PATH_INFO"] == "/cached":
        fields.append(("Cache-Control", "public, max-age=1, stale-while-revalidate=600"))
    else:
        time.sleep(0.005)  # long enough for another worker to take the next request
    body = json.dumps([subject, os.getpid()]).encode()
    start_response("200 OK", [*fields, ("Content-Length", str(len(body)))])
    return [body]


wsgi = guard.wsgi(app)

KEYS = Path(os.environ.get("KEYGUARD_KEYS", os.devnull))
if KEYS.suffix and not KEYS.exists():
    keys = {f"caller-{number}": guard.keys.issue(f"caller-{number}").key.reveal() for number in range(CALLERS)}
    for name, key in keys.items():  # in this process, which all workers are children of
        answer = ask_wsgi(wsgi, Ask("/who", (("X-API-Key", key),)), lint=False)
        assert json.loads(answer.body) == [name, os.getpid()]
    assert ask_wsgi(wsgi, Ask("/cached", (("X-API-Key", keys["caller-0"]),)), lint=False).status == 200
    whole = KEYS.with_suffix(f".{os.getpid()}")  # several workers may load the app at once
    whole.write_text(json.dumps(keys))
    whole.replace(KEYS)
