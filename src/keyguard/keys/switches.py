"""Disabling, enabling and deleting keys: the part of a registry that does it."""

from __future__ import annotations

from keyguard.keys.flows import Flows
from keyguard.keys.record import KeyRecord
from keyguard.ops import Store
from keyguard.run import arun_flow, run_flow


class Switches:
    """The methods of `KeyRegistry` that put keys out of use and into it, and delete them."""

    store: Store
    _flows: Flows

    def disable(self, id: str, *, actor: str = "app") -> KeyRecord:
        """Put a key out of use, in every process within a second, until it is enabled again."""
        return run_flow(self.store, self._flows.disable(id, True, actor))

    async def adisable(self, id: str, *, actor: str = "app") -> KeyRecord:
        """Do as `disable` does, under an event loop."""
        return await arun_flow(self.store, self._flows.disable(id, True, actor))

    def enable(self, id: str, *, actor: str = "app") -> KeyRecord:
        """Put a key that was disabled into use again, in every process within a second."""
        return run_flow(self.store, self._flows.disable(id, False, actor))

    async def aenable(self, id: str, *, actor: str = "app") -> KeyRecord:
        """Do as `enable` does, under an event loop."""
        return await arun_flow(self.store, self._flows.disable(id, False, actor))

    def delete(self, id: str, *, actor: str = "app") -> KeyRecord:
        """Delete a key and all that is known of it; it works no more, in every process within a second.

        Returns what its record was. A key that is revoked says later when and why; one that is deleted is unknown.
        """
        return run_flow(self.store, self._flows.delete(id, actor))

    async def adelete(self, id: str, *, actor: str = "app") -> KeyRecord:
        """Do as `delete` does, under an event loop."""
        return await arun_flow(self.store, self._flows.delete(id, actor))
