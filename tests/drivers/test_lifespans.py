"""The lifespan of apps that have none: keyguard answers it in their place, so that stores are closed."""

from __future__ import annotations

import asyncio
import signal
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from keyguard import Keyguard, RateLimit
from keyguard.stores.memory import MemoryStore
from tests.support.servers import free_port, python, wait_until


class Closing(MemoryStore):
    """Notes that it was closed."""

    closed = 0

    def close(self) -> None:
        self.closed += 1


def live(app: Any) -> tuple[list[str], int, BaseException | None]:
    """What the server is told, how often the store was closed, and what was raised."""
    store = Closing()
    told: list[str] = []
    messages = ["lifespan.startup", "lifespan.shutdown"]

    async def receive() -> dict[str, Any]:
        return {"type": messages.pop(0)}

    async def send(message: Any) -> None:
        told.append(message["type"])

    try:
        asyncio.run(
            Keyguard(RateLimit("9/minute", by="ip"), store=store).asgi(app)({"type": "lifespan"}, receive, send)
        )
    except Exception as error:
        return told, store.closed, error
    return told, store.closed, None


WHOLE = ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def raises(scope: Any, receive: Any, send: Any) -> None:
    raise ValueError("this app knows HTTP alone")


async def returns(scope: Any, receive: Any, send: Any) -> None:
    return


async def takes_it_for_http(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})


@pytest.mark.parametrize("app", [raises, returns, takes_it_for_http])
def test_apps_without_a_lifespan(app: Any) -> None:
    assert live(app) == (WHOLE, 1, None)


def test_a_layer_within_another() -> None:
    inner = Closing()
    assert live(Keyguard(RateLimit("9/minute", by="ip"), store=inner).asgi(raises)) == (WHOLE, 1, None)
    assert inner.closed == 1


def test_an_app_that_fails_in_its_lifespan_is_left_to_its_server() -> None:
    async def fails(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        raise LookupError("no database")

    told, closed, error = live(fails)
    assert (told, closed) == ([], 0)
    assert isinstance(error, LookupError)


APPS = {
    "raw": """
async def inside(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"hello"})
""",
    "django": """
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpResponse
from django.urls import path

settings.configure(ALLOWED_HOSTS=["*"], SECRET_KEY="x", ROOT_URLCONF=__name__)
urlpatterns = [path("", lambda request: HttpResponse("hello"))]
inside = get_asgi_application()
""",
}
AROUND = """
from pathlib import Path
from keyguard import Keyguard, RateLimit
from keyguard.stores.memory import MemoryStore

class Closing(MemoryStore):
    def close(self):
        Path("closed").write_text("yes")

app = Keyguard(RateLimit("99/minute", by="ip"), store=Closing()).asgi(inside)
"""


@pytest.mark.parametrize("lifespan", ["auto", "on"])
@pytest.mark.parametrize("kind", APPS)
def test_stores_are_closed_when_uvicorn_stops(kind: str, lifespan: str, tmp_path: Path) -> None:
    (tmp_path / "served.py").write_text(APPS[kind] + AROUND)
    port = free_port()
    words = ("-m", "uvicorn", "served:app", f"--port={port}", f"--lifespan={lifespan}", "--log-level=warning")
    with python(*words, cwd=tmp_path) as server:

        def answered() -> bytes:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
                return bytes(answer.read())

        assert wait_until(answered, "the server") == b"hello"
        assert not (tmp_path / "closed").exists()
        server.send_signal(signal.SIGTERM)
        server.wait(45)
        assert (tmp_path / "closed").read_text() == "yes"
