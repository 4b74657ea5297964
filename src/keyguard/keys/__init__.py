"""API keys: their text, their record in the store, and how they are issued, rotated and revoked."""

from keyguard.keys.format import Pepper as Pepper
from keyguard.keys.format import Peppers as Peppers
from keyguard.keys.format import PlainKey as PlainKey
from keyguard.keys.format import new_key as new_key
from keyguard.keys.format import parse_key as parse_key
from keyguard.keys.record import KeyRecord as KeyRecord
from keyguard.keys.record import record_key as record_key
from keyguard.keys.registry import IssuedKey as IssuedKey
from keyguard.keys.registry import KeyRegistry as KeyRegistry
