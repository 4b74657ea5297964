"""Two tiers: a worker takes units from a shared store in batches, and spends them by itself."""

from keyguard.stores.leased.store import Leased as Leased

__all__ = ["Leased"]
