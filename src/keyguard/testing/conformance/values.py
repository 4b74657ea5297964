"""Plain values and the records of keys, of odd kinds."""

from __future__ import annotations

from keyguard.clock import SECOND
from keyguard.ops import (
    RECORD,
    SEALED,
    Authenticate,
    CompareAndSet,
    Demand,
    Put,
    Read,
    is_counter,
)
from keyguard.rates import window
from keyguard.testing.conformance.comparing import Twins, asked_both, one, same
from keyguard.testing.conformance.reference import Reference as Reference


def check_plain_values(compared: Twins) -> None:
    store, _, clock = compared
    values = {
        "k|a": b"",
        "k|b\0c": b"\0\1\xff",
        "k|" + "x" * 500: b"y" * 100_000,
        "k|ü€😀": b"text",
        "j|": b"other",
        "l|": b"a neighbour",
    }
    for pool in ("k|", "j|", "l|"):  # the plain keys of one operation are of one pool: a cluster cannot do more
        part = {key: value for key, value in values.items() if key.startswith(pool)}
        same("writing all", True, one(store, CompareAndSet(dict.fromkeys(part), part)))
    same("reading all", tuple(values.values()), one(store, Read(*values)))
    same("scan", sorted(pair for pair in values.items() if pair[0][0] == "k"), [*store.scan("k|")])
    same("scan of a prefix that is a whole key", [("j|", b"other")], [*store.scan("j|")])
    same(
        "a CompareAndSet that expects something else",
        False,
        one(store, CompareAndSet({"k|a": None}, {"k|a": b"1"})),
    )
    same(
        "a CompareAndSet that half fits",
        False,
        one(store, CompareAndSet({"k|a": b"", "k|ü€😀": None}, {"k|a": b"1", "k|ü€😀": b"2"})),
    )
    same("after these, nothing has changed", (b"", b"other"), one(store, Read("k|a", "j|")))
    same("deleting", True, one(store, CompareAndSet({"k|a": b""}, {"k|a": None})))
    same("reading what was deleted", (None,), one(store, Read("k|a")))
    head = RECORD.pack(1, 0, 0, clock() + SECOND, b"d" * 32)
    one(store, CompareAndSet({"k|login": None}, {"k|login": head + b"{}"}))
    guess = [Demand("guesses", "guess:keys|a", window(1, 60 * SECOND, "1/minute"))]
    for digest, valid, refused in (
        (b"d", True, False),
        (b"e", False, False),
        (b"e", False, True),
        (b"d", True, False),
    ):
        found = one(store, Authenticate("k|login", {0: digest * 32}, guess))
        same("a right key passes when wrong ones have used up the guesses", valid, found.valid)
        same("and a wrong one is refused then", refused, found.guesses is not None)
    clock.advance(61)
    found = one(store, Authenticate("k|login", {0: b"d" * 32}, guess))
    same("a key is not valid from its not-after on", (False, None), (found.valid, found.guesses))


def check_records(compared: Twins) -> None:
    """Check records of every layout, kind, version and length: what cannot be compared is not valid, on any store."""
    store, reference, clock = compared
    now, digest, nothing = clock(), b"d" * 32, bytes(32)
    end = now + SECOND
    records = {
        "layout 1": RECORD.pack(1, 0, 0, end, digest),
        "layout 1, another version": RECORD.pack(1, 7, 0, end, digest),
        "layout 1, another version, a digest of zeros": RECORD.pack(1, 7, 0, end, nothing),
        "layout 1, its end": RECORD.pack(1, 0, 0, now, digest),
        "layout 1, before its time": RECORD.pack(1, 0, now + 1, end, digest),
        "layout 2": SEALED.pack(2, 1, 0, 0, now, end, digest, nothing),
        "layout 2, another kind": SEALED.pack(2, 2, 0, 0, 0, end, digest, nothing),
        "layout 2, another version": SEALED.pack(2, 1, 0, 7, 0, end, nothing, nothing),
        "layout 2, a flag": SEALED.pack(2, 1, 1, 0, 0, end, digest, nothing),
        "layout 2, its end": SEALED.pack(2, 1, 0, 0, 0, now, digest, nothing),
        "layout 3": b"\3" + SEALED.pack(2, 1, 0, 0, 0, end, digest, nothing)[1:],
        "no layout": b"",
    }
    for name in ("layout 1", "layout 2"):
        records[f"{name}, cut short"] = records[name][:-1]
        records[name] += b"{}"
    presented = [{0: digest, 1 << 16: digest}, {0: b"e" * 32, 1 << 16: b"e" * 32}, {0: nothing}, {}]
    presented += [{7: digest, (1 << 16) + 7: nothing}, {7: nothing, (1 << 16) + 7: digest}]
    guess = [Demand("guesses", "guess:keys|records", window(10_000, 60 * SECOND, "10000/minute"))]
    for number, (name, record) in enumerate(records.items()):
        written = CompareAndSet({f"k|record{number}": None}, {f"k|record{number}": record})
        reference.execute([written])
        one(store, written)
        asked = [
            Authenticate(f"k|record{number}", digests, guesses) for digests in presented for guesses in ((), guess)
        ]
        asked_both(store, reference, asked, f"a record of {name}")


def check_puts(compared: Twins) -> None:
    """Check that a `Put` writes if what it expects stands there, and nothing beside: of every kind of key."""
    store, reference, clock = compared
    states = [(clock() + n).to_bytes(8, "little") for n in (0, 1)]
    for key in ("k|put", "rc:put|1", "rl:win60000000|put"):
        plain = not is_counter(key)
        values = [b"one", b"other", None] if plain else states
        looks = Read(key, f"{key} beside") if plain else Read(key)  # counters of several callers are not read together
        asked_both(store, reference, [Put(f"{key} beside", values[0], 60 * SECOND)], "a neighbour")
        for expected in (..., None, *values):
            for value in values:
                what = f"a Put of {value!r} to {key} that expects {expected!r}"
                asked_both(store, reference, [Put(key, value, 60 * SECOND, expected=expected), looks], what)
