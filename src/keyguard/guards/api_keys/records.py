"""Keys of the registry: what the store is asked about one, and what follows from its answers.

No I/O, and no coroutine but for a store that fails: each question is an `Ask`, which both ways of a request can follow.
"""

from __future__ import annotations

from typing import Any

from keyguard.clock import SECOND
from keyguard.errors import StoreBusy, StoreError
from keyguard.guard import Ask
from keyguard.guards.api_keys.guesses import Guesses, Refusals
from keyguard.guards.api_keys.refusals import KeyRefusals
from keyguard.guards.api_keys.verified import RECHECK, Known, KnownKeys, holder_of, remembered, why_not_valid
from keyguard.http.addresses import Networks
from keyguard.keys import Peppers, parse_key, record_key
from keyguard.keys.imported import Imported
from keyguard.keys.record import trusted
from keyguard.ops import Authenticate, Authenticated, Degraded, Demand, Take, Taken
from keyguard.problem import refuse_busy, refuse_for
from keyguard.refusal import Cause
from keyguard.request import CarriedRequest, Forward
from keyguard.response import Response


class Records:
    """The keys of one guard, called `name`.

    `stale`: for how many microseconds after its verification a key is accepted while the store is out of order.
    """

    def __init__(
        self,
        name: str,
        known: KnownKeys,
        *,
        prefix: str,
        env: str | None,
        peppers: Peppers,
        scopes: Any,
        guesses: Guesses,
        guess_exempt: Networks,
        refuse: KeyRefusals,
        stale: int,
        imported: Imported | None = None,
    ) -> None:
        self.name = name
        self.known = known
        self.prefix, self.env = prefix, env
        self.peppers = peppers
        self.scopes: frozenset[str] | None = None if callable(scopes) else scopes
        """The scopes that every request needs."""
        self.refusals = Refusals()
        self.refuse = refuse
        self._guesses = guesses
        self._guess_exempt = guess_exempt
        self._stale = stale
        self.imported = imported

    def ask(self, request: CarriedRequest, text: str, fingerprint: bytes, known: Known | None) -> Response | Ask:
        """Ask about a key that is not known, or not to be trusted any more. A key that is known is not a guess."""
        if known is not None and not self.known.doubting:
            known.being_verified()
        guess = [] if known else self.guess_of(request)
        key = parse_key(text)
        if key is None:
            if known is not None and known.place and self.imported is not None:
                return self.ask_imported(text, known.identity.key_id, fingerprint, known, guess)
            return self.wrong(request, fingerprint, guess, "malformed")
        if key.prefix != self.prefix or self.env not in (None, key.env):
            return self.wrong(request, fingerprint, guess, "environment", key.id)
        # Without the guess, though it could be charged at once: a right key waits for nobody else's.
        op = Authenticate(record_key(key.id), self.peppers.digests(key))
        return AskRecord(op, self, key.id, fingerprint, known, guess)

    def ours(self, text: str) -> bool:
        """Tell whether a text is spelled as the keys that are issued here: the registry alone decides about it."""
        key = parse_key(text)
        return key is not None and key.prefix == self.prefix and self.env in (None, key.env)

    def ask_imported(self, text: str, key_id: str, fingerprint: bytes, known: Known | None, guess: list[Demand]) -> Ask:
        """Ask about a key that was made elsewhere, and has this id."""
        assert self.imported is not None
        op = self.imported.authenticate(record_key(key_id), text)
        return AskRecord(op, self, key_id, fingerprint, known, guess)

    def admit(self, request: CarriedRequest, known: Known) -> Response | None:
        """Note whose key it is. Refuse it if it may not be used from there, or lacks scopes."""
        identity = request.state.identity = known.identity
        if known.networks is not None and (request.client is None or request.client not in known.networks):
            detail = "This API key cannot be used from this address."
            return refuse_for(request, Cause.ADDRESS, detail, reason="key-network")
        if self.scopes is not None and not self.scopes <= identity.scopes:
            return self.refuse.scopes(request, sorted(self.scopes - identity.scopes))
        return None

    # -- wrong keys ---------------------------------------------------------------------------------------

    def guess_of(self, request: CarriedRequest) -> list[Demand]:
        """Return what a wrong key of this request takes: nothing if none are counted."""
        client = request.client
        if client is not None and client in self._guess_exempt:
            return []
        return self._guesses.of("unknown" if client is None else client.bucket)

    def wrong(
        self,
        request: CarriedRequest,
        fingerprint: bytes,
        guess: list[Demand],
        reason: str,
        key_id: str = "",
        subject: str = "",
    ) -> Response | AskGuess:
        """Charge the source of a wrong key, and refuse it: for its key, or for having guessed too often.

        `key_id` and `subject` are those of a key that was recognised: for the log.
        """
        self.known.drop(fingerprint)
        if not guess:
            return self.refuse.key(request, reason, key_id=key_id, subject=subject)
        now = request.clock()
        refused = self.refusals.get(guess[0].key, now)
        if refused is not None:
            return self.refuse.guessing(request, refused, key_id, subject)
        return AskGuess(guess, self, reason, (key_id, subject), now)

    # -- without the store --------------------------------------------------------------------------------

    async def without_store(self, error: StoreError, request: CarriedRequest, known: Known | None) -> Known | Response:
        """Accept a key that was verified a while ago. Refuse others without blame: nothing is known of them."""
        if isinstance(error, StoreBusy):
            return refuse_busy(request)
        now = request.clock()
        if known is not None and now < known.not_after:
            age = now - (known.fresh_until - RECHECK)
            if 0 <= age < self._stale:
                await Degraded(f"{self.name} accepted from memory")
                return known
        await Degraded(f"{self.name} refused")
        detail = "The service cannot check API keys at the moment. This says nothing about yours."
        return refuse_for(request, Cause.FAULT, detail, reason="store-failed", wait=SECOND)


class AskRecord(Ask):
    """Has a key compared with its record."""

    __slots__ = ("_fingerprint", "_guess", "_id", "_known", "_records")

    def __init__(
        self,
        op: Authenticate,
        records: Records,
        key_id: str,
        fingerprint: bytes,
        known: Known | None,
        guess: list[Demand],
    ) -> None:
        self.op = op
        self._records = records
        self._id = key_id
        self._fingerprint = fingerprint
        self._known = known
        self._guess = guess

    def answered(self, result: Authenticated, request: CarriedRequest) -> Response | Ask | None:
        records, record = self._records, result.record
        if record is None:
            return self._wrong(request, "unknown", "")
        if not result.valid:
            reason = why_not_valid(result, record, records.peppers)
            return self._wrong(request, reason, self._id, holder_of(record, records.peppers))
        known = self._known
        if known is not None and known.record == record:
            known.record = record  # the object by which it is known to have been written anew
        else:
            known = remembered(record) if trusted(record, records.peppers) else None
            if known is None or known.identity.key_id != self._id:
                return self._wrong(request, "tampered", self._id)
        known.verified(request.clock())
        records.known.keep(self._fingerprint, known)
        return records.admit(request, known)

    def _wrong(self, request: CarriedRequest, reason: str, key_id: str, subject: str = "") -> Response | Ask:
        return self._records.wrong(request, self._fingerprint, self._guess, reason, key_id, subject)

    async def failed(self, error: StoreError, request: CarriedRequest, forward: Forward) -> Response:
        answer = await self._records.without_store(error, request, self._known)
        if isinstance(answer, Response):
            return answer
        refused = self._records.admit(request, answer)
        return await forward(request) if refused is None else refused


class AskGuess(Ask):
    """Charges the source of a wrong key with a guess, and refuses it."""

    __slots__ = ("_guess", "_key", "_now", "_reason", "_records")

    def __init__(self, guess: list[Demand], records: Records, reason: str, key: tuple[str, str], now: int) -> None:
        self.op = Take(guess)
        self._guess = guess
        self._records = records
        self._reason = reason
        self._key = key
        """The id and the holder of a key that was recognised."""
        self._now = now

    def answered(self, result: Taken, request: CarriedRequest) -> Response:
        records, (key_id, subject) = self._records, self._key
        if not result.refused:
            return records.refuse.key(request, self._reason, key_id=key_id, subject=subject)
        records.refusals.keep(self._guess[0].key, result, self._now)
        return records.refuse.guessing(request, result, key_id, subject)

    async def failed(self, error: StoreError, request: CarriedRequest, forward: Forward) -> Response:
        answer = await self._records.without_store(error, request, None)
        assert isinstance(answer, Response)
        return answer
