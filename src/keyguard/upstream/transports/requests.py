"""The adapter of requests.

The request is copied, and exceptions and responses name the one that was given. A session sends a redirect by the
adapter of its own address: so the placeholder is taken off the request from which it will be built.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any, NoReturn

import requests
from requests.adapters import HTTPAdapter
from urllib3 import HTTPResponse
from urllib3.exceptions import MaxRetryError, NewConnectionError
from urllib3.util.retry import Retry

from keyguard.process.fork import check_process, renew_after_fork
from keyguard.upstream.answers import Answer, Asked, Fault, Result, UpstreamRequest
from keyguard.upstream.keys import Key
from keyguard.upstream.origins import origin_of
from keyguard.upstream.transports.credentials import clean_url, is_taken_off
from keyguard.upstream.transports.driving import drive
from keyguard.upstream.transports.faults import forget_frames
from keyguard.upstream.transports.pooled import Pooled


class PoolAdapter(HTTPAdapter):
    """Sends the requests of a `requests.Session` with the keys of a pool: mount it under the pool's origin.

    `response.keyguard` is the `UpstreamOutcome`. Bodies of text and bytes are sent again with another key; those that
    are read while they are sent are not.
    """

    def __init__(
        self,
        pool: Pooled,
        *,
        options: Mapping[str, Any] | None = None,
        pool_connections: int = 10,
        pool_maxsize: int = 10,
        max_retries: int | Retry = 0,
        pool_block: bool = False,
    ) -> None:
        """`options` hold for all requests: `affinity`, `cost`, `max_wait`. The others are those of `HTTPAdapter`."""
        super().__init__(pool_connections, pool_maxsize, max_retries, pool_block)
        self._sizes = (pool_connections, pool_maxsize, pool_block)
        renew_after_fork(self)
        self._pool = pool
        self._options = options

    def after_fork(self) -> None:
        """Connect anew: a connection that two processes write to mixes up their requests, and their keys."""
        self.proxy_manager = {}
        self.init_poolmanager(*self._sizes)

    def send(
        self,
        request: requests.PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send one request."""
        check_process()
        how = {"stream": stream, "timeout": timeout, "verify": verify, "cert": cert, "proxies": proxies}
        call = _Call(self._pool, request, lambda copy: HTTPAdapter.send(self, copy, **how))
        if not call.is_ours:
            response = call.sent(None)
        else:
            response = self._returned(drive(self._pool, call.asked(self._options), call), request)
        if response.is_redirect:
            call.forget_placeholder()
        return response

    def __reduce__(self) -> NoReturn:
        raise TypeError("the adapter of a pool is not pickled: another process has a pool of its own")

    def _returned(self, result: Result, request: requests.PreparedRequest) -> requests.Response:
        response: Any
        if result.answer is not None and result.answer.error is not None:
            raise result.answer.error.exception
        if result.answer is None:
            assert result.synthetic is not None
            status, fields, body = result.synthetic
            response = self.build_response(request, _in_memory(status, dict(fields), body))
        else:
            response = result.answer.native
            response.headers.update(result.fields)
        response.keyguard = result.outcome
        found: requests.Response = response
        return found


class _Call:
    """One request on its way through a pool."""

    def __init__(self, pool: Pooled, request: requests.PreparedRequest, send: Any) -> None:
        self._pool = pool
        self._profile = pool.profile
        self._request: Any = request
        self._send = send
        self.is_ours = origin_of(request.url or "") in pool.origins

    def asked(self, options: Mapping[str, Any] | None) -> Asked:
        """Return what the flow must know of it."""
        request = self._request
        body = request.body.encode() if isinstance(request.body, str) else request.body or b""
        body = body if isinstance(body, bytes) else None
        return self._pool.asked(UpstreamRequest(request.method, request.url, request.headers, body), options)

    def forget_placeholder(self) -> None:
        """Take the placeholder off the request itself, since a redirect is built from it."""
        for name in [name for name, value in self._request.headers.items() if is_taken_off(name, _text(value), None)]:
            del self._request.headers[name]

    def sent(self, key: Key | None) -> requests.Response:
        """Send a copy with this key as its only credential; `None` for a request to another origin."""
        try:
            response: requests.Response = self._send(self._copy(key))
        except BaseException as error:  # an interrupt too
            if isinstance(error, requests.RequestException):
                error.request = self._request
            forget_frames(error)
            raise
        response.request = self._request
        return response

    def _copy(self, key: Key | None) -> requests.PreparedRequest:
        profile = self._profile if self.is_ours else None
        copy: requests.PreparedRequest = self._request.copy()
        for name in [name for name, value in copy.headers.items() if is_taken_off(name, _text(value), profile)]:
            del copy.headers[name]
        copy.url = clean_url(copy.url or "", profile)
        if key is not None:
            copy.headers[self._profile.credential.field] = self._profile.credential.value(key.reveal())
        return copy

    # -- what the flow has be done -----------------------------------------------------------------------------

    def send(self, key: Key, number: int) -> Answer:
        try:
            response = self.sent(key)
        except requests.RequestException as error:
            return Answer(0, {}, None, Fault(error, not _is_unsent(error)))
        return Answer(response.status_code, response.headers, response)

    def read(self, answer: Answer, most: int) -> bytes:
        response: Any = answer.native
        ahead = _Ahead(response.raw, most)
        raw = response.raw
        response.raw = HTTPResponse(
            body=ahead,
            headers=raw.headers,
            status=raw.status,
            version=raw.version,
            reason=raw.reason,
            preload_content=False,
            decode_content=False,
            request_method=self._request.method,
        )
        return _decoded(ahead.head, raw.headers.get("content-encoding", ""), most)

    def discard(self, answer: Answer) -> None:
        answer.native.close()


class _Ahead(io.RawIOBase):
    """A body of which the head was read ahead, from its start."""

    def __init__(self, raw: Any, most: int) -> None:
        self._raw = raw
        self._failure: Exception | None = None
        found = bytearray()
        try:
            while len(found) < most and (chunk := raw.read(most - len(found), decode_content=False)):
                found += chunk
        except Exception as error:  # it is raised when the body is read
            self._failure = error
        self.head = bytes(found)
        self._left = io.BytesIO(self.head)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        chunk = self._left.read(len(buffer))
        if not chunk and self._failure is not None:
            raise self._failure
        chunk = chunk or self._raw.read(len(buffer), decode_content=False)
        buffer[: len(chunk)] = chunk
        return len(chunk)

    def close(self) -> None:
        if not self.closed:
            self._raw.close()
            self._raw.release_conn()
        super().close()


def _decoded(body: bytes, encoding: str, most: int) -> bytes:
    try:
        found: bytes = _in_memory(200, {"content-encoding": encoding}, body).read(most, decode_content=True)
    except Exception:  # it is not what it claims to be
        return body
    return found


def _in_memory(status: int, fields: Mapping[str, str], body: bytes) -> HTTPResponse:
    return HTTPResponse(body=io.BytesIO(body), headers=fields, status=status, preload_content=False)


def _is_unsent(error: requests.RequestException) -> bool:
    """Tell whether nothing of the request has left: there was no connection."""
    if isinstance(error, (requests.ConnectTimeout, requests.exceptions.ProxyError)):
        return True
    reason = error.args[0] if error.args else None
    return isinstance(reason, MaxRetryError) and isinstance(reason.reason, NewConnectionError)


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value
