"""Requests a second over the wire: a FastAPI route with a key and three limits on Redis, against the same route bare.

    python benchmarks/wire.py

Servers (uvicorn, Valkey) and this client are processes of one machine; the two apps take turns, on a core of their own.
Figures are ratios, of requests a second and of the CPU time that the server's process spends on each: the second
does not mind what else the machine is doing.
"""

from __future__ import annotations

import argparse
import os
import select
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.apps import bare_fastapi
from tests.support.servers import RedisServer, free_port, wait_until

from keyguard import APIKeys, Keyguard, RateLimit

RATES = "1000000/minute; 50000000/hour; 1000000000/day"
BODY = b'{"hello":"world"}'


def serve(kind: str, port: int) -> None:
    import uvicorn

    _pin(0)
    app = bare_fastapi()
    if kind == "guarded":
        app = Keyguard(APIKeys(), RateLimit(RATES, by="key"), store=os.environ["KEYGUARD_STORE"]).asgi(app)
    uvicorn.run(app, host="127.0.0.1", port=port, log_level="warning", access_log=False)


def _pin(core: int) -> None:
    """The app has a core of its own; the store and the client share another. Else they are what is measured."""
    if hasattr(os, "sched_setaffinity") and (os.cpu_count() or 1) > 1:
        os.sched_setaffinity(0, {core})


def cpu_of(pid: int) -> float:
    """Seconds of CPU time that a process has spent."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(port: int, key: str, connections: int, seconds: float) -> float:
    """Requests a second that are answered with 200. Each connection asks again as soon as it is answered.

    Plain sockets: an event loop would cost more than the server has to do, and be what is measured.
    """
    request = f"GET /hello HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
    sockets: dict[int, socket.socket] = {}
    with select.epoll() as epoll:
        try:
            for _ in range(connections):
                made = socket.create_connection(("127.0.0.1", port))
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                sockets[made.fileno()] = made
                epoll.register(made, select.EPOLLIN)
                made.send(request)
            held: dict[int, bytes] = {}
            done = 0
            began = time.monotonic()
            while (spent := time.monotonic() - began) < seconds:
                for number, _ in epoll.poll(0.1):
                    answer = held.pop(number, b"") + sockets[number].recv(65536)
                    if not answer.startswith(b"HTTP/1.1 200"):
                        raise RuntimeError(answer.decode("latin-1") or "the server closed the connection")
                    if answer.endswith(BODY):
                        done += 1
                        sockets[number].send(request)
                    else:
                        held[number] = answer  # the head alone: uvicorn writes them one by one
            return done / spent
        finally:
            for made in sockets.values():
                made.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", choices=["bare", "guarded"])
    parser.add_argument("--port", type=int)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=0.4)
    parser.add_argument("--connections", type=int, default=64)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve, options.port)
        return
    _pin(1)
    with RedisServer() as redis:
        key = Keyguard(APIKeys(), store=redis.url).keys.issue("bench").key.reveal()
        ports = {kind: free_port() for kind in ("bare", "guarded")}
        environment = {**os.environ, "KEYGUARD_STORE": redis.url}
        processes = [
            subprocess.Popen([sys.executable, __file__, "--serve", kind, "--port", str(port)], env=environment)
            for kind, port in ports.items()
        ]
        try:
            rates: dict[str, list[float]] = {"bare": [], "guarded": []}
            costs: dict[str, list[float]] = {"bare": [], "guarded": []}
            busy: dict[str, list[float]] = {"bare": [], "guarded": []}
            pids = {kind: process.pid for kind, process in zip(ports, processes, strict=True)}
            for port in ports.values():
                wait_until(lambda port=port: load(port, key, 1, 0.1), "a server")
            for place in range(options.rounds + 1):
                for kind in ("bare", "guarded") if place % 2 else ("guarded", "bare"):
                    before, began = cpu_of(pids[kind]), time.monotonic()
                    rate = load(ports[kind], key, options.connections, options.seconds)
                    spent = time.monotonic() - began
                    if place:
                        rates[kind].append(rate)
                        used = cpu_of(pids[kind]) - before
                        costs[kind].append(used / (rate * spent) * 1e6)
                        busy[kind].append(used / spent)
            ratios = [one / other for one, other in zip(rates["guarded"], rates["bare"], strict=True)]
            q1, median, q3 = statistics.quantiles(ratios, n=4)
            print(
                f"bare {statistics.median(rates['bare']):.0f}/s, guarded {statistics.median(rates['guarded']):.0f}/s; "
                f"ratio {median:.2f} (quartiles {q1:.2f} to {q3:.2f})"
            )
            print(
                f"the server is busy for {statistics.median(busy['bare']):.0%} and "
                f"{statistics.median(busy['guarded']):.0%} of the time; where it is not, others are what is measured"
            )
            ratios = [one / other for one, other in zip(costs["bare"], costs["guarded"], strict=True)]
            q1, median, q3 = statistics.quantiles(ratios, n=4)
            print(
                f"CPU a request: bare {statistics.median(costs['bare']):.0f} us, guarded "
                f"{statistics.median(costs['guarded']):.0f} us; ratio {median:.2f} (quartiles {q1:.2f} to {q3:.2f})"
            )
        finally:
            for process in processes:
                process.terminate()
                process.wait()


if __name__ == "__main__":
    main()
