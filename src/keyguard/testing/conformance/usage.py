"""What a ledger of usage adds, once and again, by several processes, and what they say of themselves."""

from __future__ import annotations

import random

from keyguard.clock import SECOND
from keyguard.ops import Put, traits_of
from keyguard.ops.usage import LATEST, AddUsage, NoteProcess, UsagePart, UsageRow
from keyguard.testing.conformance.comparing import Twins, asked_both, same

_ROWS = {"r": UsageRow(2), "t": UsageRow(3), "a": UsageRow(3, common=True)}
_SECONDS = 3600 * SECOND


def check_usage(compared: Twins) -> None:
    """Check that what is added stands there once, however often it is sent."""
    store, reference, clock = compared
    source = random.Random(5)
    if not traits_of(store).holds_values:
        return
    numbers = dict.fromkeys(("one", "two", "three"), 0)
    sent: list[AddUsage] = []
    for key, value in (("u:=x|m9", b'{"v":2,"w":{}}'), ("u:=x|h9", b"no JSON")):
        for each in (reference, store):
            each.execute([Put(key, value, _SECONDS)])
    for _ in range(60):
        if sent and source.random() < 0.3:
            op = source.choice(sent[-4:])
        else:
            token = source.choice(list(numbers))
            numbers[token] += 1
            op = AddUsage(token, numbers[token], _parts(source, clock()))
            sent.append(op)
        process = NoteProcess(op.token, source.choice([None, {"host": "h", "pid": 1}]))
        asked_both(store, reference, [op, process], f"addition {op.seq} of {op.token}")
        clock.advance(source.choice([0, 1, 700]))
    for pool in ("u:=x|", "u:*|", "procs|"):
        same(f"what stands in {pool}", [*reference.scan(pool)], [*store.scan(pool)])


def _parts(source: random.Random, now: int) -> list[UsagePart]:
    who, hour = source.choice(["*", "=x"]), source.choice([7, 8, 9])
    parts = []
    for kind in "mh":
        slot = source.randrange(4)
        parts.append(
            UsagePart(
                f"u:{who}|{kind}{hour}",
                {
                    "n": {"served": f"{slot}:{source.randrange(1, 9)}"},
                    "r": {f"usage {source.randrange(4)}": f"{slot}:1"},
                },
                {
                    "t": {f"GET /{source.randrange(6)}": source.randrange(1, 9)},
                    "a": {f"x\x1f{source.randrange(6)}": 1},
                    LATEST: {"k": source.randrange(99)},
                },
                _ROWS,
                now + source.choice([-1, 1, 2]) * _SECONDS,
                _SECONDS,
            )
        )
    return parts
