"""Rates: how much in how long, and the algorithms that keep a caller to it.

`Limit` is what an algorithm is; `notation` reads `"10/second; 5000/day"`; `window` holds the default, which never
admits more than N in any window; `gcra` paces evenly; `quotas` count by the calendar (`periods`), `balances` are spent
and filled; `description` writes limits down as plain data.
"""

from keyguard.rates.balances import Credits, credits
from keyguard.rates.description import described, limit_of
from keyguard.rates.gcra import Smooth, smooth
from keyguard.rates.limit import JSON, NEVER, Limit, Taking
from keyguard.rates.notation import parse_rates
from keyguard.rates.quotas import Quota, quota
from keyguard.rates.slots import Slots
from keyguard.rates.window import window

__all__ = [
    "JSON",
    "NEVER",
    "Credits",
    "Limit",
    "Quota",
    "Slots",
    "Smooth",
    "Taking",
    "credits",
    "described",
    "limit_of",
    "parse_rates",
    "quota",
    "smooth",
    "window",
]
