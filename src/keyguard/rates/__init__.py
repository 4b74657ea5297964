"""Rates: how much in how long, and the algorithms that keep a caller to it.

`Limit` is what an algorithm is; `notation` reads `"10/second; 5000/day"`; `window` holds the default, which never
admits more than N in any window; `gcra` paces evenly.
"""

from keyguard.rates.gcra import Smooth as Smooth
from keyguard.rates.gcra import smooth as smooth
from keyguard.rates.limit import NEVER as NEVER
from keyguard.rates.limit import Limit as Limit
from keyguard.rates.limit import Taking as Taking
from keyguard.rates.notation import parse_rates as parse_rates
from keyguard.rates.window import window as window
