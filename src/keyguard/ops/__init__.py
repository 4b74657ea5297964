"""The verbs of the store. All that must happen at once is one operation, with one meaning on every store.

`Op.apply` is the whole meaning: old values and the time in, result and changes out; no clock, no I/O. A store may
run it under a lock, in a transaction, or by compare-and-swap, and may carry a faster native version of an operation
that it holds to the same answers (`keyguard.testing.check_store` compares them).

Keys are text. The part before the first `|` names the key's pool, the rule it belongs to; the part after it, the
bucket, names the caller. The pools of counters begin with `rl:` or `guess:`, and always have a time to live.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keyguard.lazy import on_demand
from keyguard.ops.adjusting import Adjust, Adjusted, Adjustment, Count, Note, keeps_count
from keyguard.ops.holds import HELD_WAIT, MAX_HOLDS
from keyguard.ops.keys import Authenticate, Authenticated
from keyguard.ops.limits import REMEMBERED, SETTLED, Degraded, Demand, Renew, Settle, SettleHere, Take, TakeHere, Taken
from keyguard.ops.op import COUNTERS, DROPPABLE, Change, Droppable, Op, is_counter, run
from keyguard.ops.store import (
    AsyncStore,
    ManagedStore,
    Store,
    Traits,
    asked_in_loop,
    close_in_loop,
    is_store,
    keep_decisions,
    tiers_of,
    traits_of,
)
from keyguard.ops.values import BestEffort, CompareAndSet, Put, Read, ReadWithTime
from keyguard.record_head import RECORD, SEALED, Head, head_of

if TYPE_CHECKING:
    from keyguard.ops.alerting import (
        DecideAlerts,
        FireAlert,
        LeaseDeliveries,
        ListenAgain,
        ResolveAlert,
        SettleDelivery,
    )
    from keyguard.ops.upstream import Acquire, Candidate, Grant, Learn, NoGrant, Report
else:  # most stacks need none of them
    __getattr__ = on_demand(
        __name__,
        {
            "alerting": "DecideAlerts FireAlert LeaseDeliveries ListenAgain ResolveAlert SettleDelivery",
            "upstream": "Acquire Candidate Grant Learn NoGrant Report",
        },
    )

__all__ = [
    "COUNTERS",
    "DROPPABLE",
    "HELD_WAIT",
    "MAX_HOLDS",
    "RECORD",
    "REMEMBERED",
    "SEALED",
    "SETTLED",
    "Acquire",
    "Adjust",
    "Adjusted",
    "Adjustment",
    "AsyncStore",
    "Authenticate",
    "Authenticated",
    "BestEffort",
    "Candidate",
    "Change",
    "CompareAndSet",
    "Count",
    "DecideAlerts",
    "Degraded",
    "Demand",
    "Droppable",
    "FireAlert",
    "Grant",
    "Head",
    "Learn",
    "LeaseDeliveries",
    "ListenAgain",
    "ManagedStore",
    "NoGrant",
    "Note",
    "Op",
    "Put",
    "Read",
    "ReadWithTime",
    "Renew",
    "Report",
    "ResolveAlert",
    "Settle",
    "SettleDelivery",
    "SettleHere",
    "Store",
    "Take",
    "TakeHere",
    "Taken",
    "Traits",
    "asked_in_loop",
    "close_in_loop",
    "head_of",
    "is_counter",
    "is_store",
    "keep_decisions",
    "keeps_count",
    "run",
    "tiers_of",
    "traits_of",
]
