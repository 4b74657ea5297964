"""A provider in memory, and clients of httpx and httpx2, blocking and awaited, that ask it through a pool."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import httpx
import httpx2

from keyguard.upstream.keys import Key
from keyguard.upstream.pool import KeyPool
from keyguard.upstream.transports.httpx import AsyncPoolTransport, PoolTransport

ORIGIN = "https://api.openai.com"
URL = f"{ORIGIN}/v1/chat/completions"
ASKED = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}


@dataclass
class Reply:
    """What is answered. An exception among the chunks is raised in its place; `Ellipsis` hangs there."""

    status: int = 200
    chunks: Sequence[Any] = ()
    headers: dict[str, str] = field(default_factory=dict)
    hangs: bool = False
    """Whether its head does not come."""
    given: int = 0
    """The chunks that were asked for."""
    closed: int = 0
    """How often it was closed."""


@dataclass
class Seen:
    """A request as it left."""

    method: str
    url: str
    fields: list[tuple[str, str]]
    body: bytes
    extensions: dict[str, Any]

    @property
    def key(self) -> str:
        return dict(self.fields).get("authorization", "").removeprefix("Bearer ")

    def holds(self, text: str) -> bool:
        return text in self.url or any(text in name or text in value for name, value in self.fields)


Answers = Callable[[Seen], Reply | Exception]


class Site:
    """What really sends, in place of a library's own transport: it answers at once, and remembers."""

    def __init__(self, family: ModuleType, answers: Answers) -> None:
        self.family = family
        self.answers = answers
        self.seen: list[Seen] = []
        self.replies: list[Reply] = []
        self.closed = 0
        self.hanging = 0
        """The requests that hang, or did."""

    @property
    def keys(self) -> list[str]:
        """The keys of the requests, in their order."""
        return [seen.key for seen in self.seen]

    def handle_request(self, request: Any) -> Any:
        return self._answer(request, b"".join(request.stream))

    async def handle_async_request(self, request: Any) -> Any:
        response = self._answer(request, b"".join([chunk async for chunk in request.stream]))
        if self.replies[-1].hangs:
            await self.hang()
        return response

    async def hang(self) -> None:
        self.hanging += 1
        await asyncio.Event().wait()

    def close(self) -> None:
        self.closed += 1

    async def aclose(self) -> None:
        self.closed += 1

    def _answer(self, request: Any, body: bytes) -> Any:
        url = request.url  # of which user and password are not sent
        address = f"{url.scheme}://{url.netloc.decode()}{url.raw_path.decode()}"
        seen = Seen(request.method, address, request.headers.multi_items(), body, request.extensions)
        self.seen.append(seen)
        reply = self.answers(seen)
        if isinstance(reply, Exception):
            raise reply
        self.replies.append(reply)
        kind = type("Chunks", (_Chunks, self.family.SyncByteStream, self.family.AsyncByteStream), {})
        return self.family.Response(reply.status, headers=reply.headers, stream=kind(reply, self))


class _Chunks:
    def __init__(self, reply: Reply, site: Site) -> None:
        self._reply = reply
        self._site = site

    def __iter__(self) -> Iterator[bytes]:
        for chunk in self._reply.chunks:
            self._reply.given += 1
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self._reply.chunks:
            self._reply.given += 1
            if isinstance(chunk, Exception):
                raise chunk
            if chunk is ...:
                await self._site.hang()
            yield chunk

    def close(self) -> None:
        self._reply.closed += 1

    async def aclose(self) -> None:
        self._reply.closed += 1


@dataclass(frozen=True)
class World:
    """A family, and whether its clients are awaited."""

    family: ModuleType
    awaited: bool

    def __str__(self) -> str:
        return f"{self.family.__name__} {'awaited' if self.awaited else 'blocking'}"

    def site(self, answers: Answers) -> Site:
        return Site(self.family, answers)

    def ask(self, pool: KeyPool, site: Site, method: str = "POST", url: str = URL, **asked: Any) -> Any:
        """Send one request as a client does, and return the response with its body read."""
        asked.setdefault("json", ASKED) if method == "POST" and "content" not in asked else None
        return self.streamed(pool, site, method, url, lambda chunks: None, read=True, **asked)

    def streamed(
        self,
        pool: KeyPool,
        site: Site,
        method: str,
        url: str,
        each: Callable[[bytes], None],
        *,
        read: bool = False,
        follow: bool = False,
        **asked: Any,
    ) -> Any:
        """Send one request, and have `each` see the raw chunks of its response as they come."""
        if self.awaited:
            return asyncio.run(self._awaited(pool, site, method, url, each, read, follow, asked))
        transport = PoolTransport(pool, transport=site)
        with self.family.Client(transport=transport, follow_redirects=follow) as client:
            response = client.send(client.build_request(method, url, **asked), stream=True)
            try:
                if read:
                    response.read()
                else:
                    for chunk in response.iter_raw():
                        each(chunk)
            finally:
                response.close()
        return response

    async def _awaited(
        self,
        pool: KeyPool,
        site: Site,
        method: str,
        url: str,
        each: Callable[[bytes], None],
        read: bool,
        follow: bool,
        asked: dict[str, Any],
    ) -> Any:
        transport = AsyncPoolTransport(pool, transport=site)
        async with self.family.AsyncClient(transport=transport, follow_redirects=follow) as client:
            response = await client.send(client.build_request(method, url, **asked), stream=True)
            try:
                if read:
                    await response.aread()
                else:
                    async for chunk in response.aiter_raw():
                        each(chunk)
            finally:
                await response.aclose()
        return response


WORLDS = [World(family, awaited) for family in (httpx, httpx2) for awaited in (False, True)]


def a_pool(**settings: Any) -> KeyPool:
    """Return a pool of two keys, `a` before `b`."""
    keys = [Key("a", "sk-A"), Key("b", "sk-B", rank=1)]
    return KeyPool(keys, **{"profile": "openai", "origin": ORIGIN, "max_wait": 1, **settings})


def ok(**told: Any) -> Reply:
    """Return a success."""
    return Reply(200, [json.dumps({"ok": True, **told}).encode()], {"content-type": "application/json"})


def dry(wait: int = 300, **headers: str) -> Reply:
    """Return the refusal of a key that works again after so many seconds."""
    error = {"message": "Rate limit reached", "type": "requests", "param": None, "code": "rate_limit_exceeded"}
    fields = {"content-type": "application/json", "retry-after": str(wait), **headers}
    return Reply(429, [json.dumps({"error": error}).encode()], fields)


def by_key(**replies: Reply) -> Answers:
    """Answer by the last letter of the key."""
    return lambda seen: replies[seen.key[-1:]]
