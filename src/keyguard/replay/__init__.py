"""Requests of the past, as an access log tells of them, decided anew by a stack."""

from keyguard.replay.access_log import FIELDS, BrokenLine, Entry, Reader
from keyguard.replay.run import Refusals, Replay, replay

__all__ = ["FIELDS", "BrokenLine", "Entry", "Reader", "Refusals", "Replay", "replay"]
