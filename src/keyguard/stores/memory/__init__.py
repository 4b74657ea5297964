"""The store of one process: keys as bytes, counters in pools, a lock, and a bound on memory that forgives nobody.

Rules:
- A value that is not a state of a limit (an API key) always stays: callers cannot add to it. Values stand in a dict of
  their own, as bytes.
- A value that is `DROPPABLE` (figures of usage) goes at the bound before anything else does, the oldest first: while
  there are any, no caller is forgotten.
- The counters of a guard's rules stand in one *table*, one entry a caller for all of them, and are counted in place by
  a `Pool`. Counters that no guard has made a pool of stand by themselves, as bytes. `execute` sees bytes in both cases:
  it packs and unpacks, so a counter that is taken from through a pool and one that an operation reads are the same.
- Entries live in two generations. New and touched ones are in `young`; when `old` has been emptied, young becomes
  old. An entry that is met in `old` has not been touched for a while: lapsed ones go, living ones move on.
- At the bound, callers who have not been seen for a while and have spent less than half of each limit are forgotten:
  that is what an attack by millions of addresses mostly consists of. Room is made in the table that takes most of it.
  The bound of this approximation: a caller may get less than half of a limit anew once a turn of the generations, and
  a turn goes through the whole table.
- Callers who have spent more are kept. If only such are left, they are *folded*: merged into one of a fixed number
  of cells shared by the callers of a table. A cell is at least as spent as each of its callers was, so nobody over a
  limit is forgiven; but a newcomer who falls into such a cell is refused for what others did. `stats()` tells.
- The clock never jumps, so neither do the limits.

`core` holds what all of this shares, `droppable` what goes first, `loose` counters by themselves, `table` those of
guards, `pool` the way that a request takes from them, `held` that to limits of which units may be held, `slots` that to
slots, `holding` what is held in both, and `store` the border to operations.
"""

from keyguard.stores.memory.core import MemoryStats as MemoryStats
from keyguard.stores.memory.pool import Answer as Answer
from keyguard.stores.memory.pool import Pool as Pool
from keyguard.stores.memory.store import MemoryStore as MemoryStore

__all__ = ["Answer", "MemoryStats", "MemoryStore", "Pool"]
