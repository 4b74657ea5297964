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

    def disable(self, id: str) -> KeyRecord:
        """Put a key out of use, in every process within a second, until it is enabled again."""
        return run_flow(self.store, self._flows.disable(id, True))

    async def adisable(self, id: str) -> KeyRecord:
        """Do as `disable` does, under an event loop."""
        return await arun_flow(self.store, self._flows.disable(id, True))

    def enable(self, id: str) -> KeyRecord:
        """Put a key that was disabled into use again, in every process within a second."""
        return run_flow(self.store, self._flows.disable(id, False))

    async def aenable(self, id: str) -> KeyRecord:
        """Do as `enable` does, under an event loop."""
        return await arun_flow(self.store, self._flows.disable(id, False))

    def delete(self, id: str) -> KeyRecord:
        """Delete a key and all that is known of it; it works no more, in every process within a second.

        Returns what its record was. A key that is revoked says later when and why; one that is deleted is unknown.
        """
        return run_flow(self.store, self._flows.delete(id))

    async def adelete(self, id: str) -> KeyRecord:
        """Do as `delete` does, under an event loop."""
        return await arun_flow(self.store, self._flows.delete(id))
