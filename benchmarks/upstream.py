"""Upstream keys: what it costs to choose one, and to learn from an answer, on a store in memory.

    python -m benchmarks.upstream

Each line is the least of many rounds, in microseconds, and as a share of the floor: a `Take` of eight demands, which is
what a request with eight limits asks of the same store. Wall time of a shared machine: read it as ratios.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from keyguard.clock import SECOND
from keyguard.learnt import Candidate, Grant, NoGrant, Report, Seen, dimension_of, group_key, id_of
from keyguard.ops import Acquire, Demand, Learn, Op, Take
from keyguard.rates import window
from keyguard.stores.memory import MemoryStore

RPM, TPM = dimension_of("rpm"), dimension_of("tpm")
PLENTY = ((RPM, 10**7), (TPM, 10**10))
COST = {"requests": 1, "tokens": 900}


def least(run: Callable[[], Any], rounds: int = 200, each: int = 100) -> float:
    """Return the microseconds of one run in the best round."""
    best = float("inf")
    for _ in range(rounds):
        begun = time.perf_counter()
        for _ in range(each):
            run()
        best = min(best, time.perf_counter() - begun)
    return best / each * 1e6


def groups(store: MemoryStore, pool: str, many: int, full: int) -> list[Candidate]:
    """Return groups that are known, of which the first ones have no room for an hour."""
    found = []
    for number in range(many):
        name = f"{pool}{number}"
        candidate = Candidate(group_key(pool, "*", name), (id_of(name),), PLENTY, 0, id_of(f"group {name}"))
        granted = store.execute([Acquire([candidate], COST)])[0]
        store.execute([Learn([Report(candidate, granted)])])
        if number < full:
            seen = (Seen(dimension_of("rph"), 1, 0, 3600 * SECOND),)
            refused = Report(candidate, granted, cause="exhausted", scope="model", seen=seen)
            store.execute([Learn([refused])])
        found.append(candidate)
    return found


def main() -> None:
    store = MemoryStore()
    demands = [Demand(f"{number}", f"rl:{number}|x", window(10**9, 60 * SECOND, "many")) for number in range(8)]
    floor = least(lambda: store.execute([Take(demands)]))

    def tell(what: str, op: Callable[[], Op[Any]], kind: type) -> None:
        assert isinstance(store.execute([op()])[0], kind), what
        spent = least(lambda: store.execute([op()]))
        print(f"{what:<58} {spent:7.1f} {spent / floor:6.2f}")

    print(f"{'the floor: a Take of eight demands':<58} {floor:7.1f} {1:6.2f}")
    for many in (1, 4, 8):
        free = groups(store, f"free{many}", many, 0)
        tell(f"Acquire of {many}, the first has room", lambda free=free: Acquire(free, COST), Grant)
    for many in (4, 8):
        some = groups(store, f"some{many}", many, many - 1)
        tell(f"Acquire of {many}, only the last has room", lambda some=some: Acquire(some, COST, ahead=0), Grant)
        none = groups(store, f"none{many}", many, many)
        tell(f"Acquire of {many}, none has room", lambda none=none: Acquire(none, COST, ahead=0), NoGrant)
    (candidate,) = groups(store, "told", 1, 0)
    granted = store.execute([Acquire([candidate], COST)])[0]
    seen = (Seen(RPM, 10**7, 10**7 - 9, 100), Seen(TPM, 10**10, 10**10 - 9000, 100))
    tell("Learn from fields of two dimensions", lambda: Learn([Report(candidate, granted, seen=seen)]), type(None))


if __name__ == "__main__":
    main()
