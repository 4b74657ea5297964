"""Four processes of one app, forked from one that has loaded it, with alerts to a webhook.

python -m tests.alerts.four_processes STORE URL SECRET KEY...

Each line on standard input is a number: so many requests with each key, shared out among the processes that live. It is
answered by a line. The first process dies in the middle of a delivery: the message is on its way, and nobody knows.
"""

from __future__ import annotations

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
_DEADLY = 3  # deliveries


class Hook(Webhook):
    """A webhook, of which the first process dies."""

    first = False
    made = 0

    def deliver(self, message: AlertMessage) -> None:
        super().deliver(message)
        self.made += 1
        if self.first and self.made == _DEADLY:
            os.kill(os.getpid(), signal.SIGKILL)


def main(store: str, url: str, secret: str, *keys: str) -> None:
    hook = Hook(url, secret, allow_local=True, name="hook")
    guard = Keyguard(
        APIKeys(), RateLimit(quota("20/day"), by="subject"), store=store, name="shop", alerts=Alerts(to=[hook])
    )
    app = guard.wsgi(wsgi_app)
    children = []
    for number in range(4):
        orders, answers = os.pipe(), os.pipe()
        if not os.fork():
            os.close(orders[1])
            hook.first = number == 0
            with os.fdopen(orders[0]) as lines:
                for line in lines:
                    for key in line.split():
                        ask_wsgi(app, Ask(headers=(("X-API-Key", key),)), lint=False)
                    os.write(answers[1], b".")
            guard.close()
            os._exit(0)
        os.close(orders[0])
        os.close(answers[1])
        children.append((orders[1], answers[0]))
    for line in sys.stdin:
        asked = []
        shares: list[list[str]] = [[] for _ in children]
        for number, key in enumerate([key for _ in range(int(line)) for key in keys]):
            shares[number % len(children)].append(key)
        for child, share in zip(list(children), shares, strict=True):
            try:
                os.write(child[0], f"{' '.join(share)}\n".encode())
                asked.append((child, share))
            except BrokenPipeError:
                asked.append((child, share))
        for child, share in asked:
            if not os.read(child[1], 1):  # it has died, and another one has to do it
                children.remove(child)
                os.write(children[0][0], f"{' '.join(share)}\n".encode())
                os.read(children[0][1], 1)
        print(len(children), flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    main(*sys.argv[1:])
