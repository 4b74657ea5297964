"""Rates: how much in how long, and the algorithms that keep a caller to it.

`Limit` is what an algorithm is; `notation` reads `"10/second; 5000/day"`; `window` holds the default, which never
admits more than N in any window; `gcra` paces evenly.
"""

from keyguard.rates.gcra import Smooth, smooth
from keyguard.rates.limit import NEVER, Limit, Taking
from keyguard.rates.notation import parse_rates
from keyguard.rates.window import window

__all__ = ["NEVER", "Limit", "Smooth", "Taking", "parse_rates", "smooth", "window"]
