"""The methods of a cache that an app's own code calls."""

from __future__ import annotations

from keyguard.guards.cache.stats import CacheStats, Explanation
from keyguard.guards.cache.storage import CacheStorage


class ForApps:
    """The part of `ResponseCache` that apps call."""

    storage: CacheStorage

    def purge(self, url: str | None = None, *, tag: str | None = None) -> None:
        """Stop serving what is stored for a URL, on one host or, for a path alone, on all; or under a tag.

        Every process follows within `local_ttl` seconds. Raises `ValueError` for a text that is not a URL, and
        `StoreError` if a shared store cannot be told: then only this process has forgotten.
        """
        self.storage.run(self.storage.purge(url, tag))

    async def apurge(self, url: str | None = None, *, tag: str | None = None) -> None:
        """Do as `purge`, without holding up the event loop."""
        await self.storage.arun(self.storage.purge(url, tag))

    def purge_all(self) -> None:
        """Stop serving all that is stored now."""
        self.storage.run(self.storage.purge_all())

    async def apurge_all(self) -> None:
        """Do as `purge_all`, without holding up the event loop."""
        await self.storage.arun(self.storage.purge_all())

    def stats(self) -> CacheStats:
        """Return what it has done, and how full it is, in this process."""
        return self.storage.stats()

    def explain(self, url: str) -> Explanation:
        """Return why the last response for a URL, or for a path on any host, was stored or was not.

        Raises `ValueError` for a text that is not a URL.
        """
        return self.storage.explain(url)
