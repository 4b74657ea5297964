"""How far a long command has come, on standard error.

With tqdm (the extra `cli`) and a terminal it is a bar; else lines of text, seldom enough that a log can hold them and
none at all of what takes a moment. With `--json` nobody is told unless a person looks at a terminal.

    with progress("copied", 5000, options) as tell:
        tell(200)       # 200 of 5000 are done
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from keyguard.clock import monotonic

if TYPE_CHECKING:
    import tqdm

_FIRST, _EACH = 2.0, 5.0  # seconds before the first line of text, and between two
BAR_AFTER = 0.2
"""Seconds before a bar is shown: what is done by then needs none."""


@contextmanager
def progress(what: str, total: int | None, options: argparse.Namespace) -> Iterator[Callable[[int], None]]:
    """Tell how far something has come: give the function the number of things that are done, of `total` if it is known.

    `what` is the verb of a thing that is done, such as `copied`.
    """
    if sys.stderr is not None and sys.stderr.isatty():
        try:
            import tqdm
        except ImportError:
            yield _lines(what, total)
            return
        with tqdm.tqdm(
            total=total, desc=what, file=sys.stderr, leave=False, dynamic_ncols=True, delay=BAR_AFTER
        ) as bar:
            yield lambda done: _advance(bar, done)
    else:
        yield (lambda done: None) if options.json or sys.stderr is None else _lines(what, total)


def _advance(bar: tqdm.tqdm, done: int) -> None:
    bar.update(done - bar.n)


def _lines(what: str, total: int | None) -> Callable[[int], None]:
    due = monotonic() + _FIRST

    def tell(done: int) -> None:
        nonlocal due
        now = monotonic()
        if now >= due and (total is None or done < total):
            due = now + _EACH
            share = "" if not total else f" of {total} ({100 * done // total} %)"
            print(f"{done}{share} {what}", file=sys.stderr, flush=True)

    return tell
