"""Bodies of responses: the app's, as copies are made of them, and our own."""

from __future__ import annotations

from collections.abc import Iterable

from keyguard.flow import Flow
from keyguard.response import BodyFilter, Response, Tee


def feed(tees: Iterable[Tee], part: bytes, *, last: bool, sure: bool) -> list[Flow[None]]:
    """Give a part of the app's body to each copy. Returns what is to be run before the part leaves."""
    flows = []
    for tee in tees:
        flow = tee.feed(part, last=last, sure=sure)
        if flow is not None:
            flows.append(flow)
    return flows


def passed(filters: Iterable[BodyFilter], part: bytes, *, last: bool) -> bytes:
    """Return what goes on of a part of the app's body, after all filters."""
    for one in filters:
        part = one.feed(part, last=last)
    return part


def sized_body(response: Response, method: str) -> bytes:
    """The bytes to send for a response of our own; its `Content-Length` is set to fit them."""
    body = response.body
    assert isinstance(body, bytes)
    if response.sized:
        return b"" if method == "HEAD" else body
    headers = response.headers
    if method == "HEAD" or response.status < 200 or response.status in (204, 304):
        headers.remove("Content-Length")
        return b""  # without Content-Length: it need not be said here, and some gateways take its word (RFC 9110, 8.6)
    headers.set_length(len(body))
    return body
