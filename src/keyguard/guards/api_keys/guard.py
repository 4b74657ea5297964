"""Authentication by API key.

Rules:
- It fails closed. If the store or a look-up cannot answer, the request is refused with 503: never let through,
  and never told that its key is bad.
- An unknown, malformed, expired or revoked key gets the same words; the log tells them apart.
- A wrong key counts against the address it came from. A source that guesses too often is told so for a while; a right
  key of the registry passes all the same, whatever its neighbours send: nobody guesses 190 bits. So it is verified
  first, and waits for no counter; what must be bounded is the work. Look-ups are another matter: see `look_ups.py`.
- A record is trusted if its seal is right: write access to the store alone cannot give a key more rights.
- Keys that were verified are trusted for half a second without asking the store again: see `verified.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Literal, TypeAlias

from keyguard.clock import SECOND
from keyguard.conditions import OnPaths, on_paths
from keyguard.errors import AmbiguousPath, ConfigurationError, StoreBusy, StoreError
from keyguard.flow import call, is_async
from keyguard.guard import Decide, Guard
from keyguard.guards.api_keys import settings
from keyguard.guards.api_keys.at_once import deciding
from keyguard.guards.api_keys.guesses import UNNAMED, Guesses, Refusals
from keyguard.guards.api_keys.look_ups import Lookup, LookUps
from keyguard.guards.api_keys.refusals import KeyRefusals
from keyguard.guards.api_keys.verified import (
    FOREVER,
    KEY_MAX,
    RECHECK,
    Known,
    KnownKeys,
    fingerprint_of,
    remembered,
    why_not_valid,
)
from keyguard.guards.preflight import may_pass, pass_preflight
from keyguard.identity import ANONYMOUS, Identity
from keyguard.keys import KeyRegistry, Pepper, Peppers, parse_key, record_key
from keyguard.keys.credentials import Sources
from keyguard.keys.format import check_words
from keyguard.keys.record import trusted
from keyguard.ops import Authenticate, Degraded, Demand, Store, Take, TakeHere, Taken
from keyguard.problem import refuse_ambiguous, refuse_bad_request, refuse_busy, refuse_for
from keyguard.refusal import Cause
from keyguard.request import CarriedRequest, Forward, Request
from keyguard.response import Response
from keyguard.units import Duration

Scopes: TypeAlias = Iterable[str] | Callable[[Request], Any]


class APIKeys(Guard):
    """Let callers with a valid API key through, and find out whose it is.

    - `lookup`: your own function from key text to `Identity` or `None`; without it, keys are those that
      `Keyguard.keys` and `keyguard keys` issue. An `async def` runs in the event loop; a `def` in a thread under ASGI,
      with the context variables of the request, and in place under WSGI. It is not asked about an empty key. The name
      that it gives the caller stands in logs and stores: it must not be the key itself.
    - `sources`: where a key may stand: names of header fields (`"authorization"` means its Bearer scheme, RFC 6750),
      `"cookie:name"`, `"query:name"`. A key in the query ends in logs and browser histories: off by default. A Bearer
      text that does not begin with `prefix` is not a key, but an app's own: beside a key it is ignored. With a `lookup`
      every text is a key.
    - `public`: path patterns that need no key; exact (`"/health"`), whole subtrees (`"/docs/*"`); or `path(...)`.
    - `paths`: only these need a key; by default all do. A path that is in both lists needs none.
    - `ignore_case`: the app routes paths in any case, so `paths` are meant in any case.
    - `optional`: callers without a key pass as anonymous, if no scope is needed. One who sends a wrong key is still
      refused.
    - `scopes`: what a key must hold, or a function of the request that returns it; `None` if nothing is needed.
    - `guesses`: how many wrong keys an address may send; `None` for any number. With a `lookup` an address that has
      sent too many is refused without asking it; a right key of the registry is always accepted.
    - `guess_exempt`: networks whose wrong keys are not counted, such as a NAT behind which many callers are.
    - `pepper`: what digests are keyed with: text, or a mapping of version to text, the highest being used for new
      keys. By default the environment's `KEYGUARD_PEPPER`. Keys that were made without one are accepted if none is set,
      or if version 0 is named: `{1: "...", 0: None}`.
    - `prefix`, `env`: how keys begin, such as `kg_live_`: others are not accepted. With `env=None` those of every
      environment are, and new ones are `live` if nothing else is said.
    - `if_store_fails`: while the store is out of order, `"local"` goes on accepting keys that this process has
      verified within the last `stale_if_error`, `"refuse"` accepts none. All others get a 503, cause `fault`.
    - `realm`: named in the challenge of a 401.
    - `preflights`: whether CORS preflights, which browsers send without a key, pass, answered without a body. By
      default they do if CORS middleware that answers them can be seen inside: that of Starlette and FastAPI, Litestar's
      `cors_config`, django-cors-headers for all paths. True is for apps that answer them elsewhere and route by method:
      the view of an app that runs it whatever the method, as Django's function views do, would run without a key. False
      refuses them, which is right if CORS middleware stands outside. A request with a body, or with a field that asks
      for another method (`X-HTTP-Method-Override`, `X-HTTP-Method`, `X-Method-Override` and any other whose name speaks
      of a method, a verb or an override), is not a preflight; `?_method=` in a URL cannot be known.

    Raises `ConfigurationError` for a setting that is wrong.
    """

    provides = frozenset({"identity"})
    keeps = frozenset({"decisions", "keys"})
    sources: Sources

    def __init__(
        self,
        *,
        lookup: Lookup | None = None,
        sources: Iterable[str] = ("authorization", "x-api-key"),
        public: Iterable[str] | OnPaths = (),
        paths: Iterable[str] | OnPaths | None = None,
        ignore_case: bool = False,
        optional: bool = False,
        scopes: Scopes | None = None,
        guesses: str | None = "20/minute; 200/hour",
        guess_exempt: Iterable[str] = (),
        pepper: Pepper = None,
        prefix: str = "kg",
        env: str | None = "live",
        if_store_fails: Literal["local", "refuse"] = "local",
        stale_if_error: Duration = 300,
        realm: str = "api",
        preflights: bool | None = None,
        name: str = UNNAMED,
    ) -> None:
        self.lookup: Lookup | None = settings.checked_lookup(lookup)
        check_words(prefix, "live" if env is None else env)
        self.prefix, self.env = prefix, env
        self.sources = Sources(settings.listed("sources", sources), "" if lookup else f"{prefix}_")
        patterns = public if isinstance(public, OnPaths) else settings.listed("public", public)
        self.public = on_paths("public", patterns or None, False)
        self.paths = on_paths("paths", paths, ignore_case)
        self.optional = settings.switch("optional", optional)
        self.preflights = settings.checked_preflights(preflights)
        self.scopes = settings.needed_scopes(scopes)
        self.peppers = Peppers(pepper)
        self.name = settings.checked_name(name)
        self._guesses = Guesses(name, guesses, lookup)
        self.facts = self._guesses.facts
        self._guess_exempt = settings.checked_networks("guess_exempt", guess_exempt)
        self._stale = settings.stale_for(if_store_fails, stale_if_error)
        self._refuse = KeyRefusals(settings.checked_realm(realm))
        self._known = KnownKeys()
        self._refusals = Refusals()
        self._look_ups = None if lookup is None else LookUps(name, lookup, self._guesses)
        self._registry: KeyRegistry | None = None

    def after_fork(self) -> None:
        """Make the locks anew in a forked child."""
        self._known.after_fork()
        self._refusals.after_fork()
        if self._look_ups is not None:
            self._look_ups.after_fork()

    def __repr__(self) -> str:
        return f"<APIKeys {self.name}>"

    def asynchronous(self) -> dict[str, object]:
        """Return the settings that only an event loop can run."""
        settings = {"lookup": self.lookup, "scopes": self.scopes}
        return {word: value for word, value in settings.items() if is_async(value)}

    def registry(self, store: Store) -> KeyRegistry:
        """Return the registry of the keys in `store` that this guard accepts."""
        if self.lookup is not None:
            raise ConfigurationError("this APIKeys has a lookup of its own: its keys are kept there")
        if self._registry is None or self._registry.store is not store:
            self._registry = KeyRegistry(store, pepper=self.peppers, prefix=self.prefix, env=self.env or "live")
        return self._registry

    def warn_of_workers(self, workers: int) -> str:
        if self.lookup is None:
            return "a key that is issued or revoked in one of them is not in the others"
        return "each of them counts wrong keys by itself"

    def decider(self, store: Any) -> Decide | None:
        return deciding(self, self._known, store)

    async def __call__(self, request: CarriedRequest, forward: Forward) -> Response:
        state = request.state
        state.sources += (self.sources,)
        if self.public is not None or self.paths is not None:
            try:
                no_key = self.needs_no_key(request)
            except AmbiguousPath:
                return refuse_ambiguous(request)
            if no_key:
                state.identity = state.identity or ANONYMOUS
                return await forward(request)
        sent = self.sources.read(request)
        if len(sent) != 1:
            if sent:
                detail = "The request carries two different API keys. Send one."
                return refuse_bad_request(request, detail, reason="two-keys")
            foreign = self.sources.foreign(request)
            state.identity = state.identity or ANONYMOUS
            if not foreign and may_pass(request, self.preflights):
                return await pass_preflight(request, forward)
            try:
                passes = self.optional and await self._needs_no_scopes(request)
            except AmbiguousPath:
                return refuse_ambiguous(request)
            if passes:
                return await forward(request)
            if foreign:  # not a guess of ours: it cannot be a key
                return self._refuse.key(request, "malformed")
            return self._refuse.key(request, "no-key", "Send an API key.", sent=False)
        text = sent.pop()
        fingerprint = fingerprint_of(text.encode("latin-1"))
        known = self._known.get(fingerprint)
        if known is None or not known.trusted(request.clock()):
            if known is not None:
                known.being_verified()
            try:
                answer = await self._verify(request, text, fingerprint, known)
            except StoreBusy:
                return refuse_busy(request)
            except StoreError:
                answer = await self._without_store(request, known)
            if isinstance(answer, Response):
                return answer
            known = answer
        del text  # error trackers show the variables of whatever an error of the app passes through
        state.identity = known.identity
        if known.networks is not None and (request.client is None or request.client not in known.networks):
            detail = "This API key cannot be used from this address."
            return refuse_for(request, Cause.ADDRESS, detail, reason="key-network")
        if self.scopes is not None:
            try:
                missing = await self._missing_scopes(request, known.identity)
            except AmbiguousPath:
                return refuse_ambiguous(request)
            if missing:
                return self._refuse.scopes(request, missing)
        return await forward(request)

    def needs_no_key(self, request: CarriedRequest) -> bool:
        """Tell whether the request needs no key, by its path."""
        if self.paths is not None and not self.paths.closes(request):
            return True
        return self.public is not None and self.public.opens(request)

    # -- verifying ----------------------------------------------------------------------------------------

    async def _verify(self, request: Request, text: str, fingerprint: bytes, known: Known | None) -> Known | Response:
        """Ask the store, or the look-up. A key that was verified before is not a guess."""
        guess = [] if known else self._guess_of(request)
        if self._look_ups is not None:
            verified = await self._look_up(self._look_ups, request, text, fingerprint, guess)
        else:
            verified = await self._check_record(request, text, known, guess)
        if not isinstance(verified, Known):
            self._known.drop(fingerprint)
            return verified
        if known is None and verified is self._known.get(fingerprint):
            return verified  # by another request, which this one waited for
        verified.verified(request.clock())
        self._known.keep(fingerprint, verified)
        return verified

    async def _without_store(self, request: Request, known: Known | None) -> Known | Response:
        """Accept a key that was verified a while ago. Refuse others without blame: nothing is known of them."""
        now = request.clock()
        if known is not None and now < known.not_after:
            age = now - (known.fresh_until - RECHECK)
            if 0 <= age < self._stale:
                await Degraded(f"{self.name} accepted from memory")
                return known
        await Degraded(f"{self.name} refused")
        detail = "The service cannot check API keys at the moment. This says nothing about yours."
        return refuse_for(request, Cause.FAULT, detail, reason="store-failed", wait=SECOND)

    async def _check_record(
        self, request: Request, text: str, known: Known | None, guess: list[Demand]
    ) -> Known | Response:
        key = parse_key(text)
        if key is None:
            return await self._wrong(request, guess, "malformed")
        if key.prefix != self.prefix or self.env not in (None, key.env):
            return await self._wrong(request, guess, "environment", key.id)
        # Without the guess, though it could be charged at once: a right key waits for nobody else's.
        found = await Authenticate(record_key(key.id), self.peppers.digests(key))
        record = found.record
        if record is None:
            return await self._wrong(request, guess, "unknown")
        if not found.valid:
            return await self._wrong(request, guess, why_not_valid(found, record, self.peppers), key.id)
        if known is not None and known.record == record:
            known.record = record  # the object by which it is known to have been written anew
            return known
        verified = remembered(record) if trusted(record, self.peppers) else None
        if verified is None or verified.identity.key_id != key.id:
            return await self._wrong(request, guess, "tampered", key.id)
        return verified

    async def _look_up(
        self, look_ups: LookUps, request: Request, text: str, fingerprint: bytes, guess: list[Demand]
    ) -> Known | Response:
        if not text.strip() or len(text) > KEY_MAX:
            try:
                return await self._wrong(request, guess, "malformed")
            except StoreBusy:
                raise
            except StoreError:
                taken = await TakeHere(guess)
                return (
                    self._refuse.guessing(request, taken) if taken.refused else self._refuse.key(request, "malformed")
                )

        def settled() -> Known | None:
            known = self._known.get(fingerprint)
            return known if known is not None and known.trusted(request.clock()) else None

        found = await look_ups.ask(text, guess, settled)
        if isinstance(found, Identity):
            return Known(found, b"", None, FOREVER)
        if isinstance(found, Taken):
            return self._refuse.guessing(request, found)
        return self._refuse.key(request, "unknown") if found is None else found

    # -- guesses ------------------------------------------------------------------------------------------

    def _guess_of(self, request: Request) -> list[Demand]:
        """Return what a wrong key of this request takes: nothing if none are counted."""
        client = request.client
        if client is not None and client in self._guess_exempt:
            return []
        return self._guesses.of("unknown" if client is None else client.bucket)

    async def _wrong(self, request: Request, guess: list[Demand], reason: str, key_id: str = "") -> Response:
        """Charge the source of a wrong key, and refuse it: for its key, or for having guessed too often."""
        if guess:
            source, now = guess[0].key, request.clock()
            refused = self._refusals.get(source, now)
            if refused is not None:
                return self._refuse.guessing(request, refused)
            taken = await Take(guess)
            if taken.refused:
                self._refusals.keep(source, taken, now)
                return self._refuse.guessing(request, taken)
        return self._refuse.key(request, reason, key_id=key_id)

    # -- scopes -------------------------------------------------------------------------------------------

    async def _needs_no_scopes(self, request: Request) -> bool:
        """Whether the request may be made without a key: an anonymous caller has no scopes."""
        return self.scopes is None or not await self._missing_scopes(request, ANONYMOUS)

    async def _missing_scopes(self, request: Request, identity: Identity) -> list[str]:
        needed = self.scopes
        if callable(needed):
            needed = await call(needed, request)
            if needed is None:
                return []
            needed = settings.checked_scopes(needed)
        assert isinstance(needed, frozenset)
        return sorted(needed - identity.scopes)
