"""The gateway of `keyguard demo --llm`: that of `examples/llm_gateway.py`, which no wheel holds."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import StreamingResponse

from keyguard import Keyguard, KeyPool, cache_control


def gateway(guard: Keyguard, pool: KeyPool, provider: str = "https://api.openai.com") -> FastAPI:
    """Return an app that sends what it is asked to the provider, by the first key of the pool that has room."""
    fields = {"content-type": "application/json", "accept-encoding": "identity"}
    client = httpx2.AsyncClient(base_url=provider, headers=fields, transport=pool.async_transport(), timeout=120)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await client.aclose()
        await pool.aclose()

    app = FastAPI(lifespan=lifespan)
    app.add_middleware(guard.asgi)

    @app.post("/v1/chat/completions")
    @app.post("/v1/embeddings")
    async def pass_on(request: Request) -> StreamingResponse:
        # One caller's requests go by one key while that has room: providers keep prompts by key.
        wishes = {"keyguard": {"affinity": guard.here().caller.subject}}
        asked = client.build_request(request.method, request.url.path, content=await request.body(), extensions=wishes)
        try:
            answer = await client.send(asked, stream=True)
        except httpx2.TransportError as error:
            raise HTTPException(502, "the provider cannot be reached") from error
        if "x-keyguard-exhaustion" in answer.headers:  # the pool has given up: UpstreamCauses tells the caller why
            await answer.aclose()
            answer.raise_for_status()
        return StreamingResponse(pieces(answer), answer.status_code, media_type=answer.headers.get("content-type"))

    @app.get("/v1/models")
    @cache_control(max_age=300, sie="1 day", public=True)
    async def models(request: Request) -> StreamingResponse:
        return await pass_on(request)

    return app


async def pieces(answer: httpx2.Response) -> AsyncIterator[bytes]:
    try:
        async for piece in answer.aiter_raw():
            yield piece
    finally:
        await answer.aclose()
