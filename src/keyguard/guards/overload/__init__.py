"""Overload: requests that this process cannot serve in time are refused before the app drowns in them."""

from keyguard.guards.overload.guard import Overload
from keyguard.guards.overload.stats import OverloadStats

__all__ = ["Overload", "OverloadStats"]
