"""Four processes of one app, forked from one that has loaded it, with alerts to a webhook.

python -m tests.alerts.four_processes STORE URL SECRET KEY...

Each line on standard input is a number: so many requests with each key, shared out among the processes that live. It is
answered by a line. The first process dies in the middle of a delivery: the message is on its way, and nobody knows.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys

from keyguard import AlertMessage, Alerts, APIKeys, Keyguard, RateLimit, Webhook, quota
from keyguard.alerts import sender
from keyguard.clock import SECOND
from tests.support.harness import Ask, ask_wsgi, wsgi_app

sender.PAUSES = (SECOND // 4,) * 12  # not five minutes
sender.LEASE = 2 * SECOND
sender.LISTENS = SECOND // 2
sender.EVERY = 0.1
_DEADLY = 2  # deliveries


class Hook(Webhook):
    """A webhook, of which the first process dies."""

    first = False
    made = 0

    def deliver(self, message: AlertMessage) -> None:
        super().deliver(message)
        self.made += 1
        if self.first and self.made == _DEADLY:
            os.kill(os.getpid(), signal.SIGKILL)


def send(child: tuple[int, int], share: list[str]) -> None:
    with contextlib.suppress(BrokenPipeError):
        os.write(child[0], f"{' '.join(share)}\n".encode())


def answered(child: tuple[int, int], many: int) -> int:
    """How many of so many requests were made: all, unless it has died."""
    done = 0
    while done < many and (more := os.read(child[1], many - done)):
        done += len(more)
    return done


def main(store: str, url: str, secret: str, *keys: str) -> None:
    hook = Hook(url, secret, allow_local=True, name="hook")
    guard = Keyguard(
        APIKeys(), RateLimit(quota("20/day"), by="subject"), store=store, name="shop", alerts=Alerts(to=[hook])
    )
    app = guard.wsgi(wsgi_app)
    children, pids = [], []
    for number in range(4):
        ordering, answering = os.pipe(), os.pipe()
        pids.append(os.fork())
        if not pids[-1]:
            os.close(ordering[1])
            hook.first = number == 0
            with os.fdopen(ordering[0]) as lines:
                for line in lines:
                    for key in line.split():
                        ask_wsgi(app, Ask(headers=(("X-API-Key", key),)), lint=False)
                        os.write(answering[1], b".")
            guard.close()
            os._exit(0)
        os.close(ordering[0])
        os.close(answering[1])
        children.append((ordering[1], answering[0]))
    everyone = [*children]
    for line in sys.stdin:
        shares: list[list[str]] = [[] for _ in children]
        for number, key in enumerate([key for _ in range(int(line)) for key in keys]):
            shares[number % len(children)].append(key)
        work = list(zip(list(children), shares, strict=True))
        for child, share in work:
            send(child, share)
        for child, share in work:
            left = share[answered(child, len(share)) :]
            if left:  # it has died, and another one does the rest
                children.remove(child)
                send(children[-1], left)
                answered(children[-1], len(left))
        print("done", flush=True)
    for orders, _ in everyone:
        os.close(orders)
    print([os.waitpid(pid, 0)[1] for pid in pids], flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    main(*sys.argv[1:])
