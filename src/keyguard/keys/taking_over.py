"""Taking over keys that were made elsewhere: the part of a registry that does it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict

from keyguard.audit import checked_actor
from keyguard.clock import Clock
from keyguard.keys.format import Peppers
from keyguard.keys.imported import Imported
from keyguard.keys.importing import BrokenImport, ForeignKey, Imports, Prepared, Problem, prepare_all, write
from keyguard.keys.noting import note
from keyguard.ops import Store
from keyguard.process.event_loops import in_thread
from keyguard.run import run_flow


class TakesOver:
    """The methods of `KeyRegistry` for keys that were made elsewhere."""

    store: Store
    prefix: str
    env: str
    _peppers: Peppers
    _hmac: Imported | None
    """The object that knows the secret of an HMAC, unless that is the environment's."""
    _clock: Clock

    def import_keys(
        self,
        keys: Iterable[ForeignKey],
        *,
        skip_broken: bool = False,
        tell: Callable[[int], None] | None = None,
        actor: str = "app",
    ) -> Imports:
        """Take over keys that were made elsewhere, for `APIKeys(imported=True)`.

        All are checked first. Raises `BrokenImport`, which names those that are wrong by their number, and imports
        nothing, unless `skip_broken`; `StoreError` if the store fails, and then it can be done again: a key that is
        there already is left as it is. `tell` is called with the number of keys that are done.
        """
        checked_actor(actor)
        prepared, problems = self.check_import(enumerate(keys, 1))
        if problems and not skip_broken:
            raise BrokenImport(problems)
        return self.write_import(prepared, tell, actor=actor)

    async def aimport_keys(
        self,
        keys: Iterable[ForeignKey],
        *,
        skip_broken: bool = False,
        tell: Callable[[int], None] | None = None,
        actor: str = "app",
    ) -> Imports:
        """Do as `import_keys` does, under an event loop; `tell` is called in a thread."""
        return await in_thread(self.import_keys, keys, skip_broken=skip_broken, tell=tell, actor=actor)

    def check_import(self, numbered: Iterable[tuple[int, ForeignKey | str]]) -> tuple[list[Prepared], list[Problem]]:
        """Return what `write_import` takes, and what is wrong with other keys. Each comes with its number.

        A text in the place of a key says what is wrong with it.
        """
        return prepare_all(numbered, Imported(self._peppers, self._hmac), self.prefix, self.env, self._clock())

    def write_import(
        self, prepared: list[Prepared], tell: Callable[[int], None] | None = None, *, actor: str = "app"
    ) -> Imports:
        """Write keys that were checked. Raises `StoreError` if the store fails."""
        checked_actor(actor)
        self._note()
        done = write(self.store, prepared, tell)
        if done.new:
            run_flow(self.store, note(self._clock(), actor, "keys.import", None, {}, asdict(done)))
        return done

    def _note(self) -> None:
        raise NotImplementedError
