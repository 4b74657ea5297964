"""Gateways to a model for real servers, with FastAPI and with Flask. KEYGUARD_STORE names the store."""

from __future__ import annotations

import json
import os
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from flask import Flask, Response, request, stream_with_context

from keyguard import Keyguard, TokenBudget

guard = Keyguard(
    TokenBudget(
        "100000/day",
        by=lambda request: "all",
        name="tokens",
        on_disconnect=os.environ.get("LEAVING", "drain"),  # type: ignore[arg-type]
    ),
    store=os.environ["KEYGUARD_STORE"],
)
PIECES = 20
PIECE = b"data: %b\n\n" % json.dumps({"choices": [{"delta": {"content": "four" * 1000}}]}).encode()
USAGE = b"data: %b\n\n" % json.dumps({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 12}}).encode()
PAUSE = 0.05


def use() -> dict[str, int]:
    (found,) = guard.limits.peek("all", by="function")
    return {"spent": found.spent, "held": found.held}


fastapi = FastAPI()


@fastapi.get("/use")
def fastapi_use() -> dict[str, int]:
    return use()


@fastapi.post("/v1/chat/completions")
async def fastapi_chat(request: Request) -> StreamingResponse:
    assert (await request.json())["stream_options"] == {"include_usage": True}
    return StreamingResponse(_made(), media_type="text/event-stream")


async def _made() -> AsyncIterator[bytes]:
    for _ in range(PIECES):
        await anyio.sleep(PAUSE)
        yield PIECE
    yield USAGE


asgi: Any = guard.asgi(fastapi)
flask = Flask("gateway")


@flask.get("/use")
def flask_use() -> dict[str, int]:
    return use()


@flask.post("/v1/chat/completions")
def flask_chat() -> Response:
    def made() -> Iterator[bytes]:
        for _ in range(PIECES):
            time.sleep(PAUSE)
            assert request.json["stream_options"] == {"include_usage": True}  # type: ignore[index]
            yield PIECE
        yield USAGE

    return Response(stream_with_context(made()), mimetype="text/event-stream")


wsgi: Any = guard.wsgi(flask.wsgi_app)
