"""The pages, and what their forms do, by the path: the first segment, how many follow, and for forms the last one.

Each is a function of the `Reading`, and of the segments in between.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from keyguard.dashboard.answers import Outcome
from keyguard.dashboard.pages.alerts import alerts
from keyguard.dashboard.pages.audit import audit
from keyguard.dashboard.pages.cache import cache, purge
from keyguard.dashboard.pages.changing import find, issue, issue_form, revoke, rotate, update
from keyguard.dashboard.pages.key import key
from keyguard.dashboard.pages.keys import keys
from keyguard.dashboard.pages.overview import overview
from keyguard.dashboard.pages.refusals import refusals
from keyguard.dashboard.pages.stores import stores
from keyguard.dashboard.pages.upstream import enable, upstream
from keyguard.dashboard.reading import Reading

Show: TypeAlias = Callable[..., Outcome]


def _key_or_form(reading: Reading, id: str) -> Outcome:
    return issue_form(reading) if id == "issue" else key(reading, id)


PAGES: Mapping[tuple[str, int], Show] = {
    ("", 0): overview,
    ("keys", 0): keys,
    ("keys", 1): _key_or_form,
    ("refusals", 0): refusals,
    ("alerts", 0): alerts,
    ("cache", 0): cache,
    ("upstream", 0): upstream,
    ("stores", 0): stores,
    ("audit", 0): audit,
}
FORMS: Mapping[tuple[str, int, str], Show] = {
    ("keys", 1, "issue"): issue,
    ("keys", 1, "find"): find,
    ("keys", 2, "rotate"): rotate,
    ("keys", 2, "revoke"): revoke,
    ("keys", 2, "update"): update,
    ("cache", 1, "purge"): purge,
    ("upstream", 1, "enable"): enable,
}
FORMS_WITH_PAGES = frozenset({("keys", 1, "issue")})
"""Those that are pages as well: the others are part of one."""
FORMS_THAT_LOOK = frozenset({("keys", 1, "find")})
"""Those that change nothing, so that who only looks may send them."""
