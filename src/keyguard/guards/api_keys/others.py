"""Keys that the registry has not issued: those that were imported, and those that a look-up knows.

An imported key is found by a digest of its text, and compared as an issued one is. One of which a slow hash is known is
found by its beginning; the hash is tried under the limits that a look-up has, in a thread under an event loop, two at a
time in a process, and never for a text whose beginning is unknown. If it was right, the record gets the digest of the
text: the next time the key is like any other.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from keyguard.errors import StoreBusy, StoreError
from keyguard.flow import Wait, blocking, call
from keyguard.guard import Ask
from keyguard.guards.api_keys.guesses import Lines
from keyguard.guards.api_keys.look_ups import PATIENCE, First, LookUps
from keyguard.guards.api_keys.records import Records
from keyguard.guards.api_keys.verified import FOREVER, KEY_MAX, Known, remembered
from keyguard.identity import Identity
from keyguard.keys import record_key
from keyguard.keys.imported import BY_HASH, ids_in, may_be_imported
from keyguard.keys.record import decode, trusted
from keyguard.keys.verifiers import fits
from keyguard.ops import Authenticated, CompareAndSet, Demand, Read, ReadWithTime, TakeHere, Taken, head_of
from keyguard.request import CarriedRequest
from keyguard.response import Response
from keyguard.units import as_datetime

_TRIES = 3
_LANES = 2
"""Hashes at a time in a process: each takes a core, and argon2 as much memory as it was made with."""
_fits = blocking(fits)


class Others:
    """The keys of a guard, called `name`, that it has not issued. `looks_up`: whether it has a look-up."""

    __slots__ = ("_hashing", "_look_ups", "_looks_up", "_name", "_records")

    def __init__(self, name: str, records: Records, look_ups: LookUps, looks_up: bool) -> None:
        self._name = name
        self._records = records
        self._look_ups = look_ups
        self._looks_up = looks_up
        self._hashing = Lines()

    def after_fork(self) -> None:
        self._look_ups.after_fork()
        self._hashing.after_fork()

    async def ask(
        self, request: CarriedRequest, text: str, fingerprint: bytes, known: Known | None
    ) -> Response | Ask | None:
        """Ask whose a key is. A key that is known is not a guess."""
        records = self._records
        if known is not None and not records.known.doubting:
            known.being_verified()
        guess = [] if known else records.guess_of(request)
        first: First | None = None
        try:
            if records.imported is not None and may_be_imported(text):
                exact, begins = records.imported.places(text)
                found = await Read(*exact, *begins)
                ids = ids_in(found[: len(exact)])
                if ids:
                    return records.ask_imported(text, ids[0], fingerprint, known, guess)
                candidates = ids_in(found[len(exact) :])
                if candidates:
                    first = partial(self._by_hash, request, candidates, fingerprint)
            if first is None and not self._looks_up:
                return records.wrong(request, fingerprint, guess, "unknown")
            verified = await self._looked_up(request, text, fingerprint, guess, first)
            if not isinstance(verified, Known):
                records.known.drop(fingerprint)
            elif known is not None or verified is not records.known.get(fingerprint):  # or another request found it
                verified.verified(request.clock())
                records.known.keep(fingerprint, verified)
        except StoreError as error:
            verified = await records.without_store(error, request, known)
        return verified if isinstance(verified, Response) else records.admit(request, verified)

    async def _looked_up(
        self, request: CarriedRequest, text: str, fingerprint: bytes, guess: list[Demand], first: First | None
    ) -> Known | Response:
        records = self._records
        if not text.strip() or len(text) > KEY_MAX:
            answer = records.wrong(request, fingerprint, guess, "malformed")
            if isinstance(answer, Response):
                return answer
            try:
                return answer.answered(await answer.op, request)
            except StoreBusy:
                raise
            except StoreError:
                taken = await TakeHere(guess)
                return (
                    records.refuse.guessing(request, taken)
                    if taken.refused
                    else records.refuse.key(request, "malformed")
                )
        settled = partial(self._settled, request, fingerprint)
        found = await self._look_ups.ask(text, guess, settled, first)
        if isinstance(found, Identity):
            return Known(found, b"", None, FOREVER)
        if isinstance(found, Taken):
            return records.refuse.guessing(request, found)
        return records.refuse.key(request, "unknown") if found is None else found

    def _settled(self, request: CarriedRequest, fingerprint: bytes) -> Known | None:
        known = self._records.known.get(fingerprint)
        return known if known is not None and known.trusted(request.clock()) else None

    # -- slow hashes --------------------------------------------------------------------------------------

    async def _by_hash(
        self, request: CarriedRequest, candidates: list[str], fingerprint: bytes, text: str
    ) -> Known | None:
        """Try the hashes of the keys that begin so, when it is this request's turn."""
        lane = str(fingerprint[0] % _LANES)  # of one key always the same: it is not hashed twice at once
        turn = self._hashing.join(lane)
        try:
            if not turn.count and not await Wait(turn, 0, PATIENCE):
                raise StoreBusy("many keys are being verified for the first time: this one got no turn")
            known = self._settled(request, fingerprint)
            for id in candidates:
                known = known or await self._verified(id, text)
            return known
        finally:
            self._hashing.leave(lane, turn)

    async def _verified(self, id: str, text: str) -> Known | None:
        """Return a key whose hash is right, and keep it as ours."""
        imported, peppers, place = self._records.imported, self._records.peppers, record_key(id)
        assert imported is not None
        fitting = False
        for _ in range(_TRIES):
            looked: Any = await ReadWithTime(place)
            now, (stored,) = looked
            head = None if stored is None else head_of(stored)
            if stored is None or head is None or not trusted(stored, peppers):
                return None
            if head.kind != BY_HASH:  # it has been verified since
                found: Authenticated = await imported.authenticate(place, text)
                sound = found.valid and found.record is not None and trusted(found.record, peppers)
                return remembered(found.record or b"") if sound else None
            record = decode(stored)
            if record.id != id or record.verifier is None or record.status(as_datetime(now)) not in _WORKING:
                return None
            fitting = fitting or await call(_fits, text, record.verifier)
            if not fitting:
                return None
            entry, kept = imported.kept(record, text)
            await CompareAndSet({place: stored, entry: None}, {place: kept, entry: id.encode()})
        raise StoreBusy("the key is being changed by others all the time")


_WORKING = ("active", "rotating")
