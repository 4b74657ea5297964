"""What operators do with a pool: look at it, and have a key tried again."""

from __future__ import annotations

from typing import Any

from keyguard.errors import ConfigurationError, StoreError
from keyguard.ops import Op
from keyguard.ops.upstream import Learn
from keyguard.ops.values import ReadWithTime
from keyguard.upstream.enabling import enabling
from keyguard.upstream.keys import Key
from keyguard.upstream.parts import Group, PoolParts
from keyguard.upstream.place import StorePlace
from keyguard.upstream.snapshot import PoolSnapshot, names_of, snapshot_of


class ForOperators:
    """The methods of a pool that are for operators."""

    parts: PoolParts
    place: StorePlace

    def snapshot(self) -> PoolSnapshot:
        """Return what is known of the pool now. If the store does not answer, it is what this process knows."""
        try:
            return self._seen(self.place.execute(ReadWithTime(*names_of(self.parts))))
        except StoreError:
            return self._known_here()

    async def asnapshot(self) -> PoolSnapshot:
        """Do as `snapshot` does, under an event loop."""
        try:
            return self._seen(await self.place.aexecute(ReadWithTime(*names_of(self.parts))))
        except StoreError:
            return self._known_here()

    def _seen(self, found: Any) -> PoolSnapshot:
        now, values = found
        return snapshot_of(self.parts, now, values, waiting=self.parts.waiting)

    def _known_here(self) -> PoolSnapshot:
        parts = self.parts
        values = parts.without_store.read(names_of(parts))
        return snapshot_of(parts, parts.clock(), values, waiting=parts.waiting, store_ok=False)

    def enable(self, key: str) -> None:
        """Have a key, and its group, tried again at once, by its id: after it was paid for, say.

        Raises `ConfigurationError` for an id that is not of the pool, `StoreError` if the store does not answer.
        """
        self.place.execute(self._enabled(key))

    async def aenable(self, key: str) -> None:
        """Do as `enable` does, under an event loop."""
        await self.place.aexecute(self._enabled(key))

    def _enabled(self, id: str) -> Op[None]:
        group, key = self._key(id)
        parts = self.parts
        parts.pairs.forget(key.id)
        parts.telling.ends("key.invalid", key.id)
        parts.telling.ends("group.billing", group.name)
        digest = parts.digest_of(key)
        reports = enabling(parts, group, digest)
        for report in reports:
            parts.without_store.learn(report)
        return Learn(reports)

    def _key(self, id: str) -> tuple[Group, Key]:
        for group in self.parts.groups:
            for key in group.keys:
                if key.id == id:
                    return group, key
        raise ConfigurationError(f"the pool has no key {id!r:.80}")
