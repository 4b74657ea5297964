"""The floor: what the full stack does, written by hand for one app, with direct calls and nothing else.

One API key, a thousand networks, three limits, and the header fields that tell about them. It uses the arithmetic of
`keyguard.rates`, because that is the work itself, and nothing else of keyguard: no requests, steps, stores or drivers.
"""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from bisect import bisect_right
from typing import Any

from keyguard.rates import parse_rates, window


class Floor:
    """An ASGI app: the protections, by hand, around another."""

    def __init__(self, app: Any, key: str, networks: list[tuple[int, int]], rates: str) -> None:
        self.app = app
        self.lock = threading.Lock()
        self.known = {hashlib.blake2b(key.encode(), digest_size=16).digest(): ("key-id", float("inf"))}
        self.starts = [first for first, _ in networks]
        self.ends = [last for _, last in networks]
        self.limits = [(f"key:{text}|", f'"key:{text}";r=', window(q, p, text)) for q, p, text in parse_rates(rates)]
        self.policy = ", ".join(
            f'"key:{limit.text}";q={limit.quota};w={limit.period // 1_000_000}' for _, _, limit in self.limits
        ).encode()
        self.table: dict[str, tuple[bytes, int]] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        number = int.from_bytes(socket.inet_aton(scope["client"][0]), "big")
        place = bisect_right(self.starts, number) - 1
        if place >= 0 and number <= self.ends[place]:
            await refuse(send, 403)
            return
        key = None
        for name, value in scope["headers"]:
            if name == b"x-api-key":
                key = value
            elif name == b"authorization" and value[:7].lower() == b"bearer ":
                key = value[7:]
        known = self.known.get(hashlib.blake2b(key, digest_size=16).digest()) if key else None
        if known is None or known[1] < time.time():
            await refuse(send, 401)
            return
        with self.lock:
            now = time.time_ns() // 1000
            takings = []
            refused = False
            for prefix, member, limit in self.limits:
                counter = prefix + known[0]
                entry = self.table.get(counter)
                taking = limit.take(entry[0] if entry is not None and entry[1] > now else None, now, 1)
                takings.append((counter, member, taking))
                refused = refused or taking[4] != 0
            if not refused:
                for counter, _, taking in takings:
                    self.table[counter] = (taking[0], now + taking[1])
        if refused:
            await refuse(send, 429)
            return
        left = ", ".join([f"{member}{t[2]};t={-(-t[3] // 1_000_000)}" for _, member, t in takings]).encode()
        policy = self.policy

        def send_with_headers(message: Any) -> Any:
            if message["type"] == "http.response.start":
                headers = [*message["headers"], (b"ratelimit-policy", policy), (b"ratelimit", left)]
                message = {**message, "headers": headers}
            return send(message)

        await self.app(scope, receive, send_with_headers)


class OneLimit:
    """The same for one limit by address, and nothing else."""

    def __init__(self, app: Any, rate: str) -> None:
        self.app = app
        self.lock = threading.Lock()
        ((quota, period, text),) = parse_rates(rate)
        self.limit = window(quota, period, text)
        self.policy = f'"ip:{text}";q={quota};w={period // 1_000_000}'.encode()
        self.table: dict[str, tuple[bytes, int]] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        counter = "ip|" + scope["client"][0]
        with self.lock:
            now = time.time_ns() // 1000
            entry = self.table.get(counter)
            taking = self.limit.take(entry[0] if entry is not None and entry[1] > now else None, now, 1)
            if not taking[4]:
                self.table[counter] = (taking[0], now + taking[1])
        if taking[4]:
            await refuse(send, 429)
            return
        left = f'"ip:{self.limit.text}";r={taking[2]};t={-(-taking[3] // 1_000_000)}'.encode()
        policy = self.policy

        def send_with_headers(message: Any) -> Any:
            if message["type"] == "http.response.start":
                headers = [*message["headers"], (b"ratelimit-policy", policy), (b"ratelimit", left)]
                message = {**message, "headers": headers}
            return send(message)

        await self.app(scope, receive, send_with_headers)


async def refuse(send: Any, status: int) -> None:
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": b""})
