"""Limits: what is given back, settled, set back, and all or nothing."""

from __future__ import annotations

from datetime import timedelta
from itertools import product
from typing import Any

from keyguard.clock import SECOND
from keyguard.ops import (
    Demand,
    Op,
    Put,
    Read,
    Renew,
    Settle,
    Take,
    traits_of,
)
from keyguard.ops.holds import MAX_HOLDS, Holds, held_key
from keyguard.rates import window
from keyguard.testing.conformance.comparing import Twins, asked_both, one, plain, same
from keyguard.testing.conformance.drawing import LIMITS
from keyguard.testing.conformance.reference import Reference as Reference


def check_refunds(compared: Twins) -> None:
    """Check that what is given back in between leaves what was taken before and after, however much it was."""
    store, reference, clock = compared
    limit = window(1000, 60 * SECOND, "1000/minute")
    for before, order in product((1, 2, 255, 256, 257, 512), ((1, 0, 0), (0, 1, 1))):
        key = f"rl:win60000000|refund{before}{order[0]}"
        taken = []
        for cost in (before, 1, 3):
            clock.advance(2)  # in the next slice
            take = Take([Demand("limit", key, limit, cost)])
            taken.append(reference.execute([take])[0])
            one(store, take)
        for place in order:
            asked: list[Op[Any]] = [Settle(taken[place]), Take([Demand("limit", key, limit, 0)])]
            asked_both(store, reference, asked, f"giving back, {before}, 1 and 3 taken")


def check_settlements(compared: Twins) -> None:
    """Check that what is settled is settled once, however often it is asked for; also above a limit."""
    store, reference, clock = compared
    for cost, settled in ((1, 0), (1, 2), (2, 1), (0, 1), (1, None), (0, 10**12)):
        demands = [
            Demand(limit.text, f"rl:cost{place}:{limit.code}|a", limit, cost) for place, limit in enumerate(LIMITS)
        ]
        what = f"{cost} taken and {'all' if settled is None else settled} settled"
        taken = asked_both(store, reference, [Take([demand]) for demand in demands], what)
        clock.advance(0.000003)
        settles = [Settle(had, [had.demands[0].limit.max_cost if settled is None else settled]) for had in taken]
        left = [Take([Demand(demand.name, demand.key, demand.limit, 0)]) for demand in demands]
        for again in ("once", "again"):
            for batch in (settles, left):
                asked_both(store, reference, batch, f"{what}, {again}")
        dump = traits_of(store).dump
        if dump is not None:
            lives = [(name, ttl) for name, _, ttl in dump("rl:cost")]
            same(f"{what}: how long it lives", [(name, ttl) for name, _, ttl in reference.dump("rl:cost")], lives)


def check_holds(compared: Twins) -> None:
    """Check what is held: how much of it, that it ends, what is renewed, and a time that is set back."""
    store, reference, clock = compared
    limit, lease = window(2000, 3600 * SECOND, "2000/hour"), 10 * SECOND
    key = f"rl:held:{limit.code}|a"

    def ask(op: Op[Any], what: str) -> Any:
        (expected,) = reference.execute([op])
        found = one(store, op)
        same(what, plain(expected), plain(found))
        return expected

    def left() -> None:
        ask(Take([Demand("limit", key, limit, 0, holds=True)]), f"{what}: what is left")

    for what in ("holding", "holding once more in the same moment"):
        held = ask(Take([Demand("limit", key, limit, 7, lease)]), what)
        left()
    clock.advance(6)
    ask(Renew(held), "renewing")
    clock.advance(4)
    what = "as the one that was not renewed ends"
    left()
    for what, seconds in (("renewing just in time", 5.999999), ("renewing too late", 10.0)):
        clock.advance(seconds)
        ask(Renew(held), what)
        left()
    for what in ("holding again", "holding and releasing in one moment, twice", "and holding once more"):
        held = ask(Take([Demand("limit", key, limit, 3, lease)]), what)
        if what != "and holding once more":
            ask(Settle(held), what)
    left()
    for seconds in (-4000.0, 9.999999, 0.000001):
        clock.advance(seconds)
        what = f"when {seconds} seconds have passed"
        left()
    what = "settling what has lapsed"
    ask(Settle(held, [4]), what)
    left()
    key = f"rl:held:{limit.code}|b"
    many = Holds(None, clock())
    for _ in range(MAX_HOLDS - 1):
        many.add(1, lease, clock())
    name, state, ttl, _ = many.change(held_key(key), clock())
    ask(Put(name, state, ttl), "as many holds as there may be, but for one")
    for what in ("the last hold that there may be", "one more"):
        ask(Take([Demand("limit", key, limit, 1, lease)]), what)
    ask(Take([Demand("limit", key, limit, 1, holds=True)]), "taking beside as many holds as there may be")


def check_set_back(compared: Twins) -> None:
    """Check that what lies in the future counts as happening now, from the first question on."""
    store, reference, clock = compared
    for place, limit in enumerate(LIMITS):
        for cost, seconds in ((1, 0), (0, -1), (0, 1), (1, 0), (0, 1)):
            clock.advance(timedelta(microseconds=seconds * limit.period // 4))
            take = Take([Demand("limit", f"rl:back{place}:{limit.code}|a", limit, cost)])
            (expected,) = reference.execute([take])
            what = f"{limit.text}, {cost} asked for when time was set back"
            same(what, plain(expected), plain(one(store, take)))


def check_expiry(compared: Twins) -> None:
    """Check that what has a time to live is there until it is over, and not from then on: values and counters."""
    store, _, clock = compared
    take = Take([Demand("limit", "rl:limit|expiry", window(2, 10 * SECOND, "2/10 seconds"))])
    for key, op in (("rl:limit|expiry", take), ("k|expiry", Put("k|expiry", b"a value", 10 * SECOND))):
        prefix = key.partition("|")[0]
        one(store, op)
        same("scan lists all keys of a pool", [key], [found for found, _ in store.scan(f"{prefix}|")])
        clock.advance(10 - 0.000001)
        same("a value is there until its time to live is over", True, one(store, Read(key)) != (None,))
        clock.advance(0.000001)
        same("and not from then on", (None,), one(store, Read(key)))
        same("nor in scan", [], [*store.scan(f"{prefix}|")])


def check_all_or_nothing(compared: Twins) -> None:
    store, _, _ = compared
    wide, narrow = window(100, 60 * SECOND, "100/minute"), window(2, 60 * SECOND, "2/minute")
    demands = [Demand("wide", "rl:limit|wide", wide), Demand("narrow", "rl:limit|narrow", narrow)]
    outcomes = [one(store, Take(demands)) for _ in range(5)]
    same("two of five are admitted", [False, False, True, True, True], [taken.refused for taken in outcomes])
    asked = one(store, Take([Demand("wide", "rl:limit|wide", wide, 0)]))
    same("the refused ones charged nothing", 98, asked.takings[0][2])
