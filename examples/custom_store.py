"""A store of your own: anything that can run an operation on a mapping, atomically.

This one keeps everything in a `shelve` file. `check_store` holds it to the same answers as every other store.
"""

import shelve
import tempfile
import threading
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from keyguard import Keyguard, RateLimit
from keyguard.clock import Clock, wall_clock
from keyguard.ops import Op, run
from keyguard.testing import check_store


class ShelveStore:
    def __init__(self, path: str, clock: Clock = wall_clock) -> None:
        self.path, self.clock, self.lock = path, clock, threading.Lock()

    def execute(self, ops: Sequence[Op[Any]]) -> list[Any]:
        with self.lock, shelve.open(self.path) as table:
            return [run(op, table, self.clock()) for op in ops]

    def scan(self, prefix: str) -> list[tuple[str, bytes]]:
        with self.lock, shelve.open(self.path) as table:
            living = [(k, v) for k, (v, end) in table.items() if end is None or end > self.clock()]
        return sorted(pair for pair in living if pair[0].startswith(prefix))


guard = Keyguard(RateLimit("10/second"), store=ShelveStore(tempfile.mkdtemp() + "/counters"))

if __name__ == "__main__":
    folder = Path(tempfile.mkdtemp())
    numbers = count()
    check_store(lambda clock: ShelveStore(str(folder / str(next(numbers))), clock), steps=500)
    print("ShelveStore means what every store means.")
