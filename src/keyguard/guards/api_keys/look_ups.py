"""Look-ups of a user's own, asked about no more wrong keys of a source than it may send.

A look-up may be dear and its keys weak, so a guess is taken before it is asked, and given back if the key was right:
guesses that race each other are all counted. Many right keys at once then hold guesses that others need, in this
process and in others, so those wait for what is found. Look-ups on their way are counted in a limit of their own: a
source that has really guessed too often is told at once.

While the store is out of order the look-up is asked all the same, for it knows which keys are valid; wrong ones are
counted in this process.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from keyguard.errors import StoreBusy, StoreError
from keyguard.flow import Wait, blocking, call, is_async
from keyguard.guards.api_keys.guesses import Guesses, Lines
from keyguard.guards.api_keys.look_up_errors import NoIdentity, is_of_input
from keyguard.guards.api_keys.verified import Known
from keyguard.identity import Identity
from keyguard.ops import Degraded, Demand, Settle, Take, TakeHere, Taken

Lookup: TypeAlias = Callable[[str], "Identity | Awaitable[Identity | None] | None"]
"""Finds the identity of a key, or `None` if the key is not valid. An `async def` needs ASGI; a `def` runs in a thread
there."""

PATIENCE = 10.0
"""Seconds that a key waits for the look-ups of others."""
_SOON, _LATER = 0.05, 0.5  # seconds, between two looks at what other processes do
_LOOKS = 25  # without news: they take about as long as PATIENCE


First: TypeAlias = "Callable[[str], Awaitable[Known | None]]"
"""A flow that is asked about a key before the look-up is, under the same limits: it hashes, say."""


class LookUps:
    """A look-up, if there is one, and those who wait for it. `name` is the guard's."""

    __slots__ = ("_function", "_guesses", "_lines", "_name")

    def __init__(self, name: str, function: Lookup | None, guesses: Guesses) -> None:
        self._name = name
        self._function: Callable[[str], object] | None = (
            function if function is None or is_async(function) else blocking(function)
        )
        self._guesses = guesses
        self._lines = Lines()

    def after_fork(self) -> None:
        self._lines.after_fork()

    async def ask(
        self, text: str, guess: list[Demand], settled: Callable[[], Known | None], first: First | None = None
    ) -> Identity | Known | Taken | None:
        """Return whose the key is, `None` if it is nobody's, or what refuses a source that has guessed too often.

        `first` is asked before the look-up is; `settled` is asked while others are waited for: they may find the same
        key. Without a `guess` nothing is limited. Raises what the look-up raises, and `StoreBusy` if there was no turn
        in time.
        """
        if not guess:
            return await self._called(text, first)
        try:
            taken = await self._reserve(guess, settled)
        except StoreBusy:
            raise
        except StoreError:
            if first is not None:
                raise  # what it asks is in the store
            return await self._ask_without_store(text, guess)
        if isinstance(taken, Known) or taken.refused:
            return taken
        wrong, left = False, False
        try:
            identity = await self._called(text, first)
            wrong = identity is None
        except GeneratorExit:
            left = True  # nobody is there who could ask the store
            raise
        except Exception as error:
            wrong = is_of_input(error)
            raise
        finally:
            if left:
                self._lines.tell(guess[0].key)
            else:
                await self._settle(taken, guess, wrong)
        return identity

    async def _called(self, text: str, first: First | None = None) -> Identity | Known | None:
        found = None if first is None else await first(text)
        if found is not None or self._function is None:
            return found
        identity = await call(self._function, text)
        if identity is None:
            return None
        if isinstance(identity, Identity):
            if not identity.anonymous:
                return identity
            # A row without an owner, say: a caller with a key is somebody, or is refused.
            raise NoIdentity(
                "lookup returned an Identity with neither a subject nor a key_id; of a wrong key it is None"
            )
        raise NoIdentity(f"lookup returned {type(identity).__name__}, not an Identity or None")

    async def _settle(self, taken: Taken, guess: list[Demand], wrong: bool) -> None:
        """Give back what was taken, except the guess of a wrong key."""
        back = Taken(taken.demands[-1:], taken.takings[-1:], taken.at, False) if wrong else taken
        try:
            await Settle(back)
        except StoreError:
            await Degraded(f"{self._name} a guess kept")  # it lapses with its window; the look-up has answered
        finally:
            self._lines.tell(guess[0].key)

    async def _reserve(self, guess: list[Demand], settled: Callable[[], Known | None]) -> Taken | Known:
        """Take a guess. If look-ups on their way hold them all, wait for what they find: they may not be guesses."""
        source, lines = guess[0].key, self._lines
        demands = [*guess, self._guesses.looking(guess)]
        if not lines.waits(source):
            taken = await Take(demands)
            if not taken.refused or not _under_way(taken):
                return _without_looking(taken)
        turn = lines.join(source)
        try:
            looks = 0 if turn.count or await Wait(turn, 0, PATIENCE) else _LOOKS
            while looks < _LOOKS:
                known = settled()
                if known is not None:
                    return known
                seen = turn.count
                taken = await Take(demands)
                if not taken.refused or not _under_way(taken):
                    return _without_looking(taken)
                if not await Wait(turn, seen, min(_LATER, _SOON * (looks + 1))):
                    looks += 1
        finally:
            lines.leave(source, turn)
        raise StoreBusy("the look-ups of this address take too long: this one got no turn")

    async def _ask_without_store(self, text: str, guess: list[Demand]) -> Identity | Known | Taken | None:
        await Degraded(f"{self._name} guesses counted locally")
        free = [Demand(demand.name, demand.key, demand.limit, 0) for demand in guess]
        if any(taking[2] < 1 for taking in (await TakeHere(free)).takings):
            return await TakeHere(guess)
        wrong = False
        try:
            identity = await self._called(text)
            wrong = identity is None
        except Exception as error:
            wrong = is_of_input(error)
            raise
        finally:
            if wrong:
                await TakeHere(guess)
        return identity


def _under_way(taken: Taken) -> bool:
    """Tell whether look-ups of the source are on their way anywhere, which may give back what they hold."""
    demand, taking = taken.demands[-1], taken.takings[-1]
    return taking[2] < demand.limit.quota


def _without_looking(taken: Taken) -> Taken:
    """Leave the limits on guesses alone in a refusal."""
    return Taken(taken.demands[:-1], taken.takings[:-1], taken.at, True) if taken.refused else taken
