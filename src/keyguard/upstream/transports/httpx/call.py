"""One request on its way through a pool: its copies, and what the flow has be done with them."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from keyguard.upstream.answers import Answer, Asked, Fault, Result, UpstreamRequest
from keyguard.upstream.causes import Verdict
from keyguard.upstream.keys import Key
from keyguard.upstream.origins import made_of
from keyguard.upstream.transports.credentials import clean_target, is_taken_off
from keyguard.upstream.transports.events import Event
from keyguard.upstream.transports.faults import forget_frames
from keyguard.upstream.transports.httpx.body import Opened, Slices, of_family
from keyguard.upstream.transports.pooled import Pooled
from keyguard.upstream.transports.watch import Watch

_UNSENT = ("ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol", "LocalProtocolError")
"""Exceptions before which nothing of the request has left."""


class Call:
    """One request on its way through a pool."""

    def __init__(self, pool: Pooled, family: ModuleType, request: Any) -> None:
        self.pool = pool
        self.profile = pool.profile
        self.family = family
        self.request = request
        url = request.url
        self.origin = made_of(url.scheme, url.raw_host.decode("latin-1"), url.port)
        self.is_ours = self.origin in pool.origins
        self.inner: Any = None

    def asked(self) -> Asked:
        """Return what the flow must know of it."""
        stream = self.request.stream
        body = b"".join(stream) if isinstance(stream, self.family.ByteStream) else None
        told = UpstreamRequest(self.request.method, str(self.request.url), self.request.headers, body)
        asked = self.pool.asked(told, self.request.extensions.get("keyguard"))
        return asked._replace(replayable=True) if body is None and _is_form(stream) else asked

    def copy(self, key: Key | None) -> Any:
        """Return a copy with this key as its only credential; `None` for a request to another origin."""
        profile = self.profile if self.is_ours else None
        request, url = self.request, self.request.url
        fields = [
            (name, value)
            for name, value in request.headers.raw
            if not is_taken_off(name.decode("latin-1"), value.decode("latin-1"), profile)
        ]
        if key is not None:
            credential = self.profile.credential
            fields.append((credential.field.encode(), credential.value(key.reveal()).encode()))
        target = clean_target(url.raw_path, profile)
        return self.family.Request(
            request.method,
            url if target == url.raw_path else url.copy_with(raw_path=target),
            headers=fields,
            stream=request.stream,
            extensions={name: value for name, value in request.extensions.items() if name != "keyguard"},
        )

    def fault(self, error: Exception) -> Answer:
        """Return what stands for a connection that failed."""
        forget_frames(error)
        unsent = tuple(getattr(self.family, name) for name in _UNSENT)
        return Answer(0, self.family.Headers(), None, Fault(error, not isinstance(error, unsent)))

    def judge(self, event: Event) -> Verdict:
        """Return what an event of a stream means."""
        parts = self.pool.parts
        return parts.judge.event(event.name, event.data, parts.clock())

    def decode(self, body: bytes, encoding: str, most: int) -> bytes:
        """Undo a content coding as the library does, up to so many bytes; what is not coded so is returned as it is."""
        if not encoding:
            return body[:most]
        slices = of_family(Slices, self.family)(body)
        response = self.family.Response(200, headers={"content-encoding": encoding}, stream=slices)
        decoded = bytearray()
        try:
            for part in response.iter_bytes():
                decoded += part
                if len(decoded) >= most:
                    break
        except Exception:  # it was cut off, or it is not what it claims to be
            return bytes(decoded[:most]) or body[:most]
        return bytes(decoded[:most])

    def returned(self, result: Result, body: Any) -> Any:
        """Return the response for the caller, or raise the fault."""
        answer = result.answer
        if answer is not None and answer.error is not None:
            raise answer.error.exception
        response = self._synthetic(result) if answer is None else self._native(result, answer.native, body)
        response.extensions["keyguard"] = result.outcome
        return response

    def _synthetic(self, result: Result) -> Any:
        assert result.synthetic is not None
        status, fields, content = result.synthetic
        return self.family.Response(status, headers=list(fields), content=content)

    def _native(self, result: Result, opened: Opened, body: Any) -> Any:
        came = opened.response
        if came.status_code < 400 and result.settle is not None:
            opened.watch = Watch(self.profile, came.headers, decode=self.decode, judge=self.judge, settle=result.settle)
        response = self.family.Response(
            came.status_code,
            headers=came.headers,
            stream=of_family(body, self.family)(opened),
            extensions=came.extensions,
        )
        for name, value in result.fields:
            response.headers[name] = value
        return response


class SyncCall(Call):
    def send(self, key: Key, number: int) -> Answer:
        try:
            opened = Opened(self.inner.handle_request(self.copy(key)))
        except Exception as error:
            return self.fault(error)
        except BaseException as interrupted:
            forget_frames(interrupted)
            raise
        if opened.may_be_refused:
            self.fill(opened, opened.has_event)
        return opened.answer(self.judge)

    def read(self, answer: Answer, most: int) -> bytes:
        opened: Opened = answer.native
        self.fill(opened, lambda: opened.size >= most)
        return self.decode(b"".join(opened.read), opened.response.headers.get("content-encoding", ""), most)

    def fill(self, opened: Opened, enough: Callable[[], bool]) -> None:
        """Read ahead until it is enough."""
        if opened.chunks is None:
            opened.chunks = iter(opened.stream)
        try:
            while not (opened.ended or enough()):
                chunk = next(opened.chunks, None)
                if chunk is None:
                    opened.ended = True
                    opened.stream.close()  # another attempt may need the connection
                else:
                    opened.keep(chunk)
        except Exception as error:
            opened.ended, opened.failure = True, error
        except BaseException:
            opened.stream.close()
            raise

    def discard(self, answer: Answer) -> None:
        answer.native.stream.close()


class AsyncCall(Call):
    async def send(self, key: Key, number: int) -> Answer:
        try:
            opened = Opened(await self.inner.handle_async_request(self.copy(key)))
        except Exception as error:
            return self.fault(error)
        except BaseException as cancelled:
            forget_frames(cancelled)
            raise
        if opened.may_be_refused:
            await self.fill(opened, opened.has_event)
        return opened.answer(self.judge)

    async def read(self, answer: Answer, most: int) -> bytes:
        opened: Opened = answer.native
        await self.fill(opened, lambda: opened.size >= most)
        return self.decode(b"".join(opened.read), opened.response.headers.get("content-encoding", ""), most)

    async def fill(self, opened: Opened, enough: Callable[[], bool]) -> None:
        if opened.chunks is None:
            opened.chunks = aiter(opened.stream)
        try:
            while not (opened.ended or enough()):
                chunk = await anext(opened.chunks, None)
                if chunk is None:
                    opened.ended = True
                    await opened.stream.aclose()
                else:
                    opened.keep(chunk)
        except Exception as error:
            opened.ended, opened.failure = True, error
        except BaseException:
            await opened.stream.aclose()
            raise

    async def discard(self, answer: Answer) -> None:
        await answer.native.stream.aclose()


def _is_form(stream: Any) -> bool:
    """Tell whether a body is a form of several parts that can be made again: its files are in memory or go back."""
    if type(stream).__name__ != "MultipartStream":
        return False
    files = [getattr(part, "file", b"") for part in stream.fields]
    return all(isinstance(file, (str, bytes)) or (hasattr(file, "seekable") and file.seekable()) for file in files)
