"""What a stack would have decided about requests of the past, as an access log tells of them."""

from keyguard.replay.access_log import FIELDS, BrokenLine, Entry, Reader
from keyguard.replay.run import Refusals, Replay, replay

__all__ = ["FIELDS", "BrokenLine", "Entry", "Reader", "Refusals", "Replay", "replay"]
