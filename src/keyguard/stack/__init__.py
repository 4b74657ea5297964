"""Guards, a store and an app, put together and checked before any request."""

from keyguard.stack.keyguard import Keyguard as Keyguard

__all__ = ["Keyguard"]
