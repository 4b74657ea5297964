"""A gateway to a model with FastAPI, for real servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import anyio
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse

from tests.support.served_budget import PAUSE, PIECE, PIECES, USAGE, guard, use

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


app: Any = guard.asgi(fastapi)
