"""The methods of a cache that an app's own code calls."""

from __future__ import annotations

from keyguard.guards.cache.purges_noted import EVERYTHING, check_actor, told
from keyguard.guards.cache.stats import CacheStats, Explanation
from keyguard.guards.cache.storage import CacheStorage


class ForApps:
    """The part of `ResponseCache` that apps call."""

    storage: CacheStorage

    def purge(self, url: str | None = None, *, tag: str | None = None, actor: str | None = None) -> None:
        """Stop serving what is stored for a URL, on one host or, for a path alone, on all; or under a tag.

        Every process follows within `local_ttl` seconds. `actor` is who does it, for the audit log; what an app does by
        itself, without one, is not noted there. Raises `ValueError` for a text that is not a URL, and `StoreError` if
        a shared store cannot be told: then only this process has forgotten.
        """
        check_actor(actor)
        self.storage.run(self.storage.purge(url, tag))
        self.storage.note_purge(told(url, tag), actor)

    async def apurge(self, url: str | None = None, *, tag: str | None = None, actor: str | None = None) -> None:
        """Do as `purge`, without holding up the event loop."""
        check_actor(actor)
        await self.storage.arun(self.storage.purge(url, tag))
        await self.storage.anote_purge(told(url, tag), actor)

    def purge_all(self, *, actor: str | None = None) -> None:
        """Stop serving all that is stored now. `actor` is who does it, for the audit log."""
        check_actor(actor)
        self.storage.run(self.storage.purge_all())
        self.storage.note_purge(EVERYTHING, actor)

    async def apurge_all(self, *, actor: str | None = None) -> None:
        """Do as `purge_all`, without holding up the event loop."""
        check_actor(actor)
        await self.storage.arun(self.storage.purge_all())
        await self.storage.anote_purge(EVERYTHING, actor)

    def stats(self) -> CacheStats:
        """Return what it has done, and how full it is, in this process."""
        return self.storage.stats()

    def explain(self, url: str) -> Explanation:
        """Return why the last response for a URL, or for a path on any host, was stored or was not.

        Raises `ValueError` for a text that is not a URL.
        """
        return self.storage.explain(url)
