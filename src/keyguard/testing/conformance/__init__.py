"""The conformance suite of stores: every store means what `Op.apply` means.

Public as `keyguard.testing.play.check_store`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from keyguard.clock import SECOND, Clock, ManualClock
from keyguard.ops import (
    RECORD,
    SEALED,
    Authenticate,
    Authenticated,
    CompareAndSet,
    Demand,
    Op,
    Put,
    Read,
    Settle,
    Store,
    Take,
    Taken,
    close_in_loop,
    traits_of,
)
from keyguard.rates import Limit, window
from keyguard.testing.conformance.drawing import EDITED, LIMITS, Draw, Steps
from keyguard.testing.conformance.reference import Reference as Reference


def check_store(
    make_store: Callable[[Clock], Store],
    *,
    steps: int = 3000,
    seed: int = 1,
    compensates: bool = False,
    ops: Sequence[Op[Any] | Draw] = (),
    limits: Sequence[Limit] = (),
) -> None:
    """Hold a store to the meaning of every operation. Raises `AssertionError` that says what went wrong.

    `make_store` opens an empty store that takes its time from the clock it is given. `steps` random operations of every
    kind, on limits of every kind, run on it and on a reference, and every answer is compared, and what they left; then
    come values and keys of odd kinds, all-or-nothing, expiry, `scan`, threads, and `aexecute` where there is one.

    `ops` are operations of your own, or functions that make one from a `random.Random`, and `limits` are limits of your
    own: they are drawn among the others. `compensates` is for a store that takes from several callers' counters one
    after the other, and gives back where one refuses (a cluster): it is then not asked what a clock that is set back
    does to states in which a charge came and went.
    """
    back = not compensates
    _check_random_steps(make_store, steps, Steps(seed, (*LIMITS, *limits), together=4, back=back, ops=ops))
    for edited in EDITED:
        _check_random_steps(make_store, steps // 2, Steps(seed, edited, together=1, edited=True))
    _check_plain_values(make_store)
    _check_records(make_store)
    _check_puts(make_store)
    _check_refunds(make_store)
    _check_settlements(make_store)
    _check_set_back(make_store)
    _check_expiry(make_store)
    _check_all_or_nothing(make_store)
    _check_threads(make_store)
    _check_async(make_store, back=back)
    _check_traits(make_store)


def _check_random_steps(make_store: Callable[[Clock], Store], steps: int, source: Steps) -> None:
    clock = ManualClock()
    reference, seed = Reference(clock), source.seed
    with _opened(make_store, clock) as store:
        for step in range(steps):
            source.pass_time(clock, reference)
            batch = source.batch()
            what = f"step {step} of seed {seed}"
            _compare(source, reference, batch, _executed(store, batch, what), what)
            if step % 50 == 0:
                for prefix in ("k|", "rc:"):
                    _same(f"{what}, scan", reference.scan(prefix), [*store.scan(prefix)])
                    dump = traits_of(store).dump
                    if dump is not None:
                        _same(f"{what}, dump", reference.dump(prefix), [*dump(prefix)])
                keys = [key for key, _ in store.scan("")]
                _same(f"{what}, the keys of all", sorted(keys), keys)


def _compare(source: Steps, reference: Reference, batch: Sequence[Op[Any]], got: list[Any], what: str) -> None:
    """Hold the answers to a batch to what the reference answers."""
    _same(f"{what}, the number of results", len(batch), len(got))
    for op, other in zip(batch, got, strict=True):
        old = [reference.value(key) for key in op.keys]
        (result,) = reference.execute([op])
        told = f"{what}, {_described(op)}"
        if op.likely is not None:
            now = reference.clock()
            writes, later = op.apply(op.likely, 0)[1], op.apply(op.likely, now)[1]
            _same(f"{told}: what it makes of what is likely, now and at any time", writes, later)
            if old == [*op.likely] and _plain(other) == _plain(op.apply(op.likely, 0)[0]):
                other = result  # it was done without looking first
        _same(told, _plain(result), _plain(other))
        source.saw(op, result, reference)


def _check_plain_values(make_store: Callable[[Clock], Store]) -> None:
    clock = ManualClock()
    with _opened(make_store, clock) as store:
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
            _same("writing all", True, _one(store, CompareAndSet(dict.fromkeys(part), part)))
        _same("reading all", tuple(values.values()), _one(store, Read(*values)))
        _same("scan", sorted(pair for pair in values.items() if pair[0][0] == "k"), [*store.scan("k|")])
        _same("scan of a prefix that is a whole key", [("j|", b"other")], [*store.scan("j|")])
        _same(
            "a CompareAndSet that expects something else",
            False,
            _one(store, CompareAndSet({"k|a": None}, {"k|a": b"1"})),
        )
        _same(
            "a CompareAndSet that half fits",
            False,
            _one(store, CompareAndSet({"k|a": b"", "k|ü€😀": None}, {"k|a": b"1", "k|ü€😀": b"2"})),
        )
        _same("after these, nothing has changed", (b"", b"other"), _one(store, Read("k|a", "j|")))
        _same("deleting", True, _one(store, CompareAndSet({"k|a": b""}, {"k|a": None})))
        _same("reading what was deleted", (None,), _one(store, Read("k|a")))
        head = RECORD.pack(1, 0, 0, clock() + SECOND, b"d" * 32)
        _one(store, CompareAndSet({"k|login": None}, {"k|login": head + b"{}"}))
        guess = [Demand("guesses", "guess:keys|a", window(1, 60 * SECOND, "1/minute"))]
        for digest, valid, refused in (
            (b"d", True, False),
            (b"e", False, False),
            (b"e", False, True),
            (b"d", True, False),
        ):
            found = _one(store, Authenticate("k|login", {0: digest * 32}, guess))
            _same("a right key passes when wrong ones have used up the guesses", valid, found.valid)
            _same("and a wrong one is refused then", refused, found.guesses is not None)
        clock.advance(61)
        found = _one(store, Authenticate("k|login", {0: b"d" * 32}, guess))
        _same("a key is not valid from its not-after on", (False, None), (found.valid, found.guesses))


def _check_records(make_store: Callable[[Clock], Store]) -> None:
    """Records of every layout, kind, version and length: what cannot be compared is not valid, on any store."""
    clock = ManualClock()
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
    reference = Reference(clock)
    with _opened(make_store, clock) as store:
        for number, (name, record) in enumerate(records.items()):
            written = CompareAndSet({f"k|record{number}": None}, {f"k|record{number}": record})
            reference.execute([written])
            _one(store, written)
            for digests in presented:
                for guesses in ((), guess):
                    op = Authenticate(f"k|record{number}", digests, guesses)
                    _same(f"a record of {name}", _plain(reference.execute([op])[0]), _plain(_one(store, op)))


def _check_puts(make_store: Callable[[Clock], Store]) -> None:
    """A `Put` writes if what it expects stands there, plain values and counters alike."""
    clock = ManualClock()
    reference = Reference(clock)
    with _opened(make_store, clock) as store:
        for key in ("k|put", "rl:win60000000|put"):
            values = (
                [b"one", b"other", None] if key[0] == "k" else [(clock() + n).to_bytes(8, "little") for n in (0, 1)]
            )
            for expected in (..., None, *values):
                for value in values:
                    op = Put(key, value, 60 * SECOND, expected=expected)
                    what = f"a Put of {value!r} to {key} that expects {expected!r}"
                    _same(what, reference.execute([op])[0], _one(store, op))
                    _same(f"{what}, read", reference.execute([Read(key)])[0], _one(store, Read(key)))


def _check_refunds(make_store: Callable[[Clock], Store]) -> None:
    """What is given back in between leaves what was taken before and after, however much it was."""
    clock = ManualClock()
    reference = Reference(clock)
    limit = window(1000, 60 * SECOND, "1000/minute")
    with _opened(make_store, clock) as store:
        for before in (1, 2, 255, 256, 257, 512):
            key = f"rl:win60000000|refund{before}"
            taken = []
            for cost in (before, 1, 3):
                take = Take([Demand("limit", key, limit, cost)])
                taken.append(reference.execute([take])[0])
                _one(store, take)
                clock.advance(2)
            for charge in (taken[1], taken[0], taken[0]):
                asked: list[Op[Any]] = [Settle(charge), Take([Demand("limit", key, limit, 0)])]
                for op in asked:
                    (expected,) = reference.execute([op])
                    _same(f"giving back, {before}, 1 and 3 taken", _plain(expected), _plain(_one(store, op)))


def _check_settlements(make_store: Callable[[Clock], Store]) -> None:
    """What is settled is settled once, however often it is asked for while its token is known; also above a limit."""
    clock = ManualClock()
    reference = Reference(clock)
    with _opened(make_store, clock) as store:
        for place, limit in enumerate(LIMITS):
            key = f"rl:settled{place}:{limit.code}|a"
            for cost, settled in ((1, 0), (1, 2), (2, 1), (0, 1), (1, limit.max_cost), (0, 10**12)):
                take = Take([Demand("limit", key, limit, cost)])
                (taken,) = reference.execute([take])
                _one(store, take)
                clock.advance(microseconds=3)
                settle = Settle(taken, [settled])
                left = Take([Demand("limit", key, limit, 0)])
                asked: list[Op[Any]] = [settle, left, settle, left]
                for again, op in enumerate(asked):
                    (expected,) = reference.execute([op])
                    what = f"{limit.text}, {cost} taken and {settled} settled, {('once', 'again')[again // 2]}"
                    _same(what, _plain(expected), _plain(_one(store, op)))
                dump = traits_of(store).dump
                if dump is not None:
                    lives = [(name, ttl) for name, _, ttl in dump(key)]
                    _same(f"{what}: how long it lives", [(name, ttl) for name, _, ttl in reference.dump(key)], lives)


def _check_set_back(make_store: Callable[[Clock], Store]) -> None:
    """What lies in the future counts as happening now, from the first question on."""
    clock = ManualClock()
    reference = Reference(clock)
    with _opened(make_store, clock) as store:
        for place, limit in enumerate(LIMITS):
            for cost, seconds in ((1, 0), (0, -1), (0, 1), (1, 0), (0, 1)):
                clock.advance(microseconds=seconds * limit.period // 4)
                take = Take([Demand("limit", f"rl:back{place}:{limit.code}|a", limit, cost)])
                (expected,) = reference.execute([take])
                what = f"{limit.text}, {cost} asked for when time was set back"
                _same(what, _plain(expected), _plain(_one(store, take)))


def _check_expiry(make_store: Callable[[Clock], Store]) -> None:
    clock = ManualClock()
    with _opened(make_store, clock) as store:
        limit = window(2, 10 * SECOND, "2/10 seconds")
        demand = Demand("limit", "rl:limit|expiry", limit)
        _one(store, Take([demand]))
        _same("scan lists counters too", ["rl:limit|expiry"], [key for key, _ in store.scan("rl:limit|")])
        clock.advance(microseconds=10 * SECOND - 1)
        _same("a value is there until its time to live is over", True, _one(store, Read("rl:limit|expiry")) != (None,))
        clock.advance(microseconds=1)
        _same("and not from then on", (None,), _one(store, Read("rl:limit|expiry")))
        _same("nor in scan", [], [*store.scan("rl:limit|")])


def _check_all_or_nothing(make_store: Callable[[Clock], Store]) -> None:
    with _opened(make_store, ManualClock()) as store:
        wide, narrow = window(100, 60 * SECOND, "100/minute"), window(2, 60 * SECOND, "2/minute")
        demands = [Demand("wide", "rl:limit|wide", wide), Demand("narrow", "rl:limit|narrow", narrow)]
        outcomes = [_one(store, Take(demands)) for _ in range(5)]
        _same("two of five are admitted", [False, False, True, True, True], [taken.refused for taken in outcomes])
        asked = _one(store, Take([Demand("wide", "rl:limit|wide", wide, 0)]))
        _same("the refused ones charged nothing", 98, asked.takings[0][2])


def _check_threads(make_store: Callable[[Clock], Store]) -> None:
    with _opened(make_store, ManualClock()) as store:
        take = Take([Demand("limit", "rl:limit|threads", window(100, 60 * SECOND, "100/minute"))])
        admitted: list[bool] = []
        failures: list[BaseException] = []

        def hammer() -> None:
            try:
                for _ in range(20):
                    admitted.append(not _one(store, take).refused)
            except BaseException as failure:
                failures.append(failure)

        threads = [threading.Thread(target=hammer) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        _same("threads that ask at once raise nothing", [], failures)
        _same("16 threads that ask 320 times for 100", 100, sum(admitted))


def _check_async(make_store: Callable[[Clock], Store], *, back: bool) -> None:
    clock = ManualClock()
    with _opened(make_store, clock) as store:
        if traits_of(store).aexecute is not None:
            asyncio.run(_check_loop(store, clock, back))


async def _check_loop(store: Any, clock: ManualClock, back: bool) -> None:
    reference, source = Reference(clock), Steps(2, LIMITS, together=4, back=back)

    async def ask(batch: list[Op[Any]]) -> list[Any]:
        results = store.aexecute(batch)
        return _answers(results if isinstance(results, list) else await results)

    try:
        for step in range(200):
            source.pass_time(clock, reference)
            batch = source.batch()
            _compare(source, reference, batch, await ask(batch), f"aexecute, step {step}")
        take = Take([Demand("limit", "rl:limit|tasks", window(100, 60 * SECOND, "100/minute"))])
        together = await asyncio.gather(*[ask([take]) for _ in range(150)])
        _same("150 tasks that ask at once for 100", 100, sum(not results[0].refused for results in together))
    finally:
        await close_in_loop(store)


def _check_traits(make_store: Callable[[Clock], Store]) -> None:
    """What a store may have beside is of the right kind, and does what `keyguard.ops.store` says."""
    clock, take = ManualClock(), Take([Demand("limit", "rl:limit|traits", window(9, 60 * SECOND, "9/minute"))])
    with _opened(make_store, clock) as store:
        traits = traits_of(store)
        _same("timeout is a number of seconds above 0, if there is one", True, (traits.timeout or 1) > 0)
        _same("needs_asyncio is a truth value, if it is there", True, traits.needs_asyncio in (None, True, False))
        _same("a place is equal to itself, and has a hash", True, {traits.place: 1}.get(traits_of(store).place) == 1)
        _same("holds_values", True, traits.holds_values)
        _same("a store that takes back what it gave has no limitations", None, traits.limitations)
        if traits.here is not None:
            found = traits.here([take])
            _same("here returns a list of results, or None", True, found is None or len(found) == 1)
        _one(store, take)
        if traits.scratch is not None:
            with _opened(traits.scratch, clock) as beside:
                _same("a store that is made for a check is empty", [], [*beside.scan("")])
                _one(beside, CompareAndSet({"k|traits": None}, {"k|traits": b"beside"}))
            _same("what is done there is not done here", (None,), _one(store, Read("k|traits")))
        if traits.close is not None:
            with _opened(make_store, clock) as other:
                _one(other, take)
                _close(other)  # and once more at the end


def _one(store: Store, op: Op[Any]) -> Any:
    return _executed(store, [op], "a directed check")[0]


def _executed(store: Store, batch: Sequence[Op[Any]], what: str) -> list[Any]:
    try:
        return _answers(store.execute(batch))
    except Exception as error:
        described = "; ".join(map(_described, batch))
        raise AssertionError(f"{what}, {described}: expected results, got {error!r}") from error


def _answers(results: Any) -> list[Any]:
    if not isinstance(results, list):
        raise AssertionError(f"execute returns a list of results, not {type(results).__name__}")
    return results


def _plain(result: Any) -> Any:
    """A result as values that compare."""
    if isinstance(result, Taken):
        # The state itself is how a store may represent it; what it means shows in the next answers.
        return result.at, result.refused, [taking[1:] for taking in result.takings]
    if isinstance(result, Authenticated):
        return result.valid, result.record, _plain(result.guesses), result.at
    return result


def _described(op: Op[Any]) -> str:
    return f"{type(op).__name__} of {', '.join(op.keys)}"


def _same(what: str, expected: Any, got: Any) -> None:
    if expected != got:
        raise AssertionError(f"{what}: expected {_short(expected)}, got {_short(got)}")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 1000 else f"{text[:1000]}..."


@contextmanager
def _opened(make_store: Callable[[Clock], Store], clock: Clock) -> Iterator[Store]:
    """A store that is closed whatever is found: one that is made for a check is removed by it."""
    store = make_store(clock)
    try:
        yield store
    except BaseException:
        with suppress(Exception):  # what was found comes first
            _close(store)
        raise
    _close(store)


def _close(store: Store) -> None:
    close = traits_of(store).close
    if close is not None:
        close()
