"""The middleware of aiohttp's client (3.12 and newer).

The library makes a request of its own for each redirect, and runs the middleware for it. So the key is set on the
request that was given, and taken off again as soon as its head has been sent: responses and exceptions show its fields.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Mapping
from types import SimpleNamespace
from typing import Any

from aiohttp import BytesPayload, ClientConnectorError, ClientError, ClientPayloadError, StreamReader
from aiohttp.base_protocol import BaseProtocol
from aiohttp.client_reqrep import ClientRequest, ClientResponse
from aiohttp.http import HttpVersion11
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from keyguard.upstream.answers import Answer, Asked, Fault, Result, UpstreamRequest
from keyguard.upstream.keys import Key
from keyguard.upstream.origins import made_of
from keyguard.upstream.transports.credentials import clean_url, is_taken_off
from keyguard.upstream.transports.driving import adrive
from keyguard.upstream.transports.pooled import Pooled

Handler = Callable[[ClientRequest], Awaitable[ClientResponse]]

_LONGEST = 1024 * 1024
"""Bytes of an error's body that are kept for the caller."""
_UNSENT: tuple[type[Exception], ...] = (ClientConnectorError,)
"""Exceptions before which nothing of the request has left."""
try:
    from aiohttp import ConnectionTimeoutError

    _UNSENT = (*_UNSENT, ConnectionTimeoutError)
except ImportError:  # older than 3.10
    pass


class PoolMiddleware:
    """Sends the requests of an `aiohttp.ClientSession` with the keys of a pool: one of its `middlewares=`.

    `response.keyguard` is the `UpstreamOutcome`. Bodies of text and bytes are sent again with another key; those that
    are read while they are sent are not.
    """

    def __init__(self, pool: Pooled, *, options: Mapping[str, Any] | None = None) -> None:
        """`options` hold for all requests: `affinity`, `cost`, `max_wait`."""
        self._pool = pool
        self._options = options

    async def __call__(self, request: ClientRequest, handler: Handler) -> ClientResponse:
        """Send one request."""
        call = _Call(self._pool, request, handler)
        if not call.is_ours:
            return await call.sent(None)
        asked = await call.asked(self._options)
        return await _returned(await adrive(self._pool, asked, call), request)


class _Call:
    """One request on its way through a pool."""

    def __init__(self, pool: Pooled, request: ClientRequest, handler: Handler) -> None:
        self._pool = pool
        self._profile = pool.profile
        self._request = request
        self._handler = handler
        url = request.url
        self.is_ours = made_of(url.scheme, url.raw_host or "", url.port) in pool.origins

    async def asked(self, options: Mapping[str, Any] | None) -> Asked:
        """Return what the flow must know of it."""
        request = self._request
        body: Any = request.body
        if isinstance(body, BytesPayload):
            body = await body.as_bytes()
        body = body if isinstance(body, bytes) else None
        told = UpstreamRequest(request.method, str(request.url), request.headers, body)
        return self._pool.asked(told, options)

    async def sent(self, key: Key | None) -> ClientResponse:
        """Send it with this key as its only credential, up to the head; `None` for a request to another origin."""
        request, headers = self._request, self._request.headers.copy()
        self._change(key)
        try:
            return await self._handler(request)
        finally:
            for name in {*request.headers, *headers}:
                _restore(request.headers, headers, name)

    def _change(self, key: Key | None) -> None:
        profile = self._profile if self.is_ours else None
        fields = self._request.headers
        for name in {name for name, value in fields.items() if is_taken_off(name, value, profile)}:
            fields.popall(name, None)
        if key is not None:
            fields[self._profile.credential.field] = self._profile.credential.value(key.reveal())
        self._request.url = URL(clean_url(str(self._request.url), profile), encoded=True)

    # -- what the flow has be done -----------------------------------------------------------------------------

    async def send(self, key: Key, number: int) -> Answer:
        try:
            response = await self.sent(key)
        except (ClientError, OSError) as error:  # timeouts are OSErrors
            return Answer(0, {}, None, Fault(error, not isinstance(error, _UNSENT)))
        return Answer(response.status, response.headers, response)

    async def read(self, answer: Answer, most: int) -> bytes:
        response: ClientResponse = answer.native
        found = bytearray()
        failure: ClientError | None = None
        try:
            while len(found) < _LONGEST and (chunk := await response.content.readany()):
                found += chunk
            if len(found) >= _LONGEST:
                failure = ClientPayloadError("the body of this error is longer than 1 MiB")
        except ClientError as error:
            failure = error
        if failure is not None:
            response.close()
        response.content = _reader(bytes(found), failure)
        return bytes(found[:most])

    async def discard(self, answer: Answer) -> None:
        answer.native.release()


def _restore(fields: CIMultiDict[str], headers: CIMultiDict[str], name: str) -> None:
    """Give a field the values back that it had."""
    if fields.getall(name, []) != headers.getall(name, []):
        fields.popall(name, None)
        fields.extend([(name, value) for value in headers.getall(name, [])])


async def _returned(result: Result, request: ClientRequest) -> ClientResponse:
    """Return the response for the caller, or raise the fault."""
    if result.answer is not None and result.answer.error is not None:
        raise result.answer.error.exception
    if result.answer is None:
        assert result.synthetic is not None
        status, fields, body = result.synthetic
        response = await _in_memory(request, status, fields, body)
    else:
        response = result.answer.native
        changed = response.headers.copy()
        changed.update(result.fields)
        response._headers = CIMultiDictProxy(changed)  # they have no setter,
        response._cache.pop("headers", None)  # and are remembered
    told: Any = response
    told.keyguard = result.outcome
    return response


async def _in_memory(
    request: ClientRequest, status: int, fields: tuple[tuple[str, str], ...], body: bytes
) -> ClientResponse:
    """Return a response that came by no connection."""
    wanted = inspect.signature(ClientResponse.__init__).parameters
    given: dict[str, Any] = {
        "writer": None,
        "continue100": None,
        "timer": None,
        "request_info": request.request_info,
        "traces": [],
        "loop": asyncio.get_running_loop(),
        "session": request.session,
        "stream_writer": SimpleNamespace(output_size=0),
    }
    make: Any = request.response_class
    response: ClientResponse = make(
        request.method, request.original_url, **{name: value for name, value in given.items() if name in wanted}
    )
    connection: Any = _NoConnection(status, fields, body)
    return await response.start(connection)


class _NoConnection:
    """The source of a response's head and body."""

    upgraded = False

    def __init__(self, status: int, fields: tuple[tuple[str, str], ...], body: bytes) -> None:
        self.protocol = self
        self._message = SimpleNamespace(
            code=status,
            reason="Too Many Requests" if status == 429 else "",
            version=HttpVersion11,
            headers=CIMultiDictProxy(CIMultiDict(fields)),
            raw_headers=tuple([(name.encode(), value.encode()) for name, value in fields]),
        )
        self._body = body

    async def read(self) -> tuple[Any, StreamReader]:
        return self._message, _reader(self._body, None)

    def release(self) -> None: ...

    def close(self) -> None: ...


def _reader(body: bytes, failure: Exception | None) -> StreamReader:
    loop = asyncio.get_running_loop()
    reader = StreamReader(BaseProtocol(loop), 2 * _LONGEST, loop=loop)
    if body:
        reader.feed_data(body)
    if failure is None:
        reader.feed_eof()
    else:
        reader.set_exception(failure)
    return reader
