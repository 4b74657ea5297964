"""Work in the background that the tests of a module have left: the tests of others do not hear of it."""

from __future__ import annotations

from keyguard.process import background


def forget_jobs() -> None:
    """Have no job run any more that was begun before: what one says of a store that has gone falls into any test."""
    for worker in [*background._workers]:
        with worker._lock:
            for job in worker.jobs:
                worker._drop(job)
            if worker._wake is not None:
                worker._wake.set()
