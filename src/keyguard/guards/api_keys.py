"""Authentication by API key.

Rules:
- It fails closed. Where the store or a look-up cannot answer, the request is refused with 503: never let through,
  and never told that its key is bad.
- An unknown, malformed, expired or revoked key gets the same words; the log tells them apart.
- A wrong key counts against the address it came from. A source that guesses too often is refused for a while, before
  any key of its counts.
- Keys that were verified are trusted for half a second without asking the store again: see `known_keys.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Literal, TypeAlias

from keyguard.clock import SECOND, whole_seconds
from keyguard.conditions import OnPaths, on_paths
from keyguard.errors import AmbiguousPath, ConfigurationError, StoreBusy, StoreError
from keyguard.flow import Wait, call, check_takes, is_async
from keyguard.guards.credentials import Sources
from keyguard.guards.guesses import PATIENCE, TRIES, Looking, guess_rules
from keyguard.guards.known_keys import FOREVER, KEY_MAX, RECHECK, REMEMBERED, Known, fingerprint_of, remembered
from keyguard.guards.preflight import may_pass, pass_preflight
from keyguard.identity import ANONYMOUS, Identity
from keyguard.keys import KeyRegistry, Peppers, parse_key, record_key
from keyguard.keys.format import check_words
from keyguard.keys.record import decode
from keyguard.ops import Authenticate, Degraded, Demand, GiveBack, Store, Take, Taken
from keyguard.rates import NEVER
from keyguard.refusal import Cause, refuse, refuse_ambiguous, refuse_bad_request, refuse_busy
from keyguard.request import Forward, Request
from keyguard.response import Response

Lookup: TypeAlias = Callable[[str], "Identity | Awaitable[Identity | None] | None"]
"""Finds the identity of a key, or `None` where the key is not valid. `def` or, under ASGI, `async def`."""

Scopes: TypeAlias = Iterable[str] | Callable[[Request], Any]


class APIKeys:
    """Lets through who sends a valid API key, and finds out whose it is.

    - `lookup`: your own function from key text to `Identity` or `None`; without it, keys are those that
      `Keyguard.keys` and `keyguard keys` issue.
    - `sources`: where a key may stand: names of header fields (`"authorization"` means its Bearer scheme, RFC 6750),
      `"cookie:name"`, `"query:name"`. A key in the query ends in logs and browser histories: off by default.
    - `public`: path patterns that need no key; exact (`"/health"`), whole subtrees (`"/docs/*"`); or `path(...)`.
    - `paths`: only these need a key; by default all do. A path that is in both lists needs none.
    - `ignore_case`: the app routes paths in any case, so `paths` are meant in any case.
    - `optional`: callers without a key pass as anonymous, where no scope is needed. One who sends a wrong key is still
      refused.
    - `scopes`: what a key must hold, or a function of the request that returns it; `None` where nothing is needed.
    - `guesses`: how many wrong keys an address may send.
    - `pepper`: what digests are keyed with: text, or a mapping of version to text, the highest being used for new
      keys. By default the environment's `KEYGUARD_PEPPER`.
    - `prefix`, `env`: how new keys begin, such as `kg_live_`.
    - `if_store_fails`: while the store is out of order, `"local"` goes on accepting keys that this process has
      verified within the last `stale_if_error` seconds, `"refuse"` accepts none. All others get a 503, cause `fault`.
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
        guesses: str = "20/minute; 200/hour",
        pepper: str | bytes | Mapping[int, str | bytes] | None = None,
        prefix: str = "kg",
        env: str = "live",
        if_store_fails: Literal["local", "refuse"] = "local",
        stale_if_error: float = 300,
        realm: str = "api",
        preflights: bool | None = None,
        name: str = "keys",
    ) -> None:
        if lookup is not None and not callable(lookup):
            raise ConfigurationError(f"lookup is a function from key text to Identity or None, not {lookup!r}")
        if lookup is not None:
            check_takes("lookup", lookup, "the text of a key")
        self.lookup = lookup
        self.sources = Sources(_listed("sources", sources))
        patterns = public if isinstance(public, OnPaths) else _listed("public", public)
        self.public = on_paths("public", patterns or None, False)
        self.paths = on_paths("paths", paths, ignore_case)
        if not isinstance(optional, bool):
            raise ConfigurationError(f"optional is True or False, not {optional!r}")
        if preflights is not None and not isinstance(preflights, bool):
            raise ConfigurationError(f"preflights is True or False, or None for what can be seen, not {preflights!r}")
        self._by_path = self.public is not None or self.paths is not None
        self.optional, self.preflights = optional, preflights
        if callable(scopes):
            check_takes("scopes", scopes, "the request")
        self.scopes = scopes if callable(scopes) or scopes is None else _checked_scopes(_listed("scopes", scopes))
        self.peppers = Peppers(pepper)
        check_words(prefix, env)
        self.prefix, self.env = prefix, env
        if not (isinstance(name, str) and name and name.isascii() and name.isprintable() and "|" not in name):
            raise ConfigurationError(f"a name is printable ASCII text without '|', not {name!r}")
        self.name = name
        self._guesses = guess_rules(name, guesses)
        if not (isinstance(realm, str) and realm.isascii() and realm.isprintable() and not set(realm) & {'"', "\\"}):
            raise ConfigurationError(f"realm is printable ASCII text without quotes, not {realm!r}")
        if if_store_fails not in ("local", "refuse"):
            raise ConfigurationError(
                f"if_store_fails of APIKeys is 'local' or 'refuse', not {if_store_fails!r}: nobody is let in unknown"
            )
        if isinstance(stale_if_error, bool) or not isinstance(stale_if_error, (int, float)):
            raise ConfigurationError(f"stale_if_error is a number of seconds, not {stale_if_error!r}")
        if not 0 <= stale_if_error <= 86400:
            raise ConfigurationError(f"stale_if_error is from 0 to 86400 seconds, not {stale_if_error!r}")
        self._stale = round(stale_if_error * SECOND) if if_store_fails == "local" else 0
        self._challenge = f'Bearer realm="{realm}"'
        self._known: dict[bytes, Known] = {}
        self._looking = Looking()

    def __repr__(self) -> str:
        return f"<APIKeys {self.name}>"

    def asynchronous(self) -> dict[str, object]:
        """The settings that only an event loop can run."""
        settings = {"lookup": self.lookup, "scopes": self.scopes}
        return {word: value for word, value in settings.items() if is_async(value)}

    def registry(self, store: Store) -> KeyRegistry:
        """The keys in `store` that this guard accepts."""
        if self.lookup is not None:
            raise ConfigurationError("this APIKeys has a lookup of its own: its keys are kept there")
        return KeyRegistry(store, pepper=self.peppers, prefix=self.prefix, env=self.env)

    def admits(self, request: Request) -> bool:
        """Whether it is plain that the request may pass: one key, which was verified just now, and nothing to ask."""
        if self._by_path:
            try:
                if self._needs_no_key(request):
                    return False
            except AmbiguousPath:
                return False
        sent = self.sources.read(request)
        known = self._known.get(fingerprint_of(sent.pop())) if len(sent) == 1 else None
        if known is None or known.networks is not None or not known.trusted(request.now()):
            return False
        if self.scopes is not None and (callable(self.scopes) or not self.scopes <= known.identity.scopes):
            return False
        findings = request.findings
        findings.sources += (self.sources,)
        findings.identity = known.identity
        return True

    async def __call__(self, request: Request, forward: Forward) -> Response:
        findings = request.findings
        findings.sources += (self.sources,)
        if self._by_path:
            try:
                no_key = self._needs_no_key(request)
            except AmbiguousPath:
                return refuse_ambiguous(request)
            if no_key:
                findings.identity = findings.identity or ANONYMOUS
                return await forward(request)
        sent = self.sources.read(request)
        if len(sent) != 1:
            if sent:
                detail = "The request carries two different API keys. Send one."
                return refuse_bad_request(request, detail, reason="two-keys")
            findings.identity = findings.identity or ANONYMOUS
            if may_pass(request, self.preflights):
                return await pass_preflight(request, forward)
            try:
                passes = self.optional and await self._needs_no_scopes(request)
            except AmbiguousPath:
                return refuse_ambiguous(request)
            return await forward(request) if passes else self._refuse(request, "no-key", "Send an API key.", sent=False)
        (text,) = sent
        fingerprint = fingerprint_of(text)
        known = self._known.get(fingerprint)
        if known is None or not known.trusted(request.now()):
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
        findings.identity = known.identity
        if known.networks is not None and (request.client is None or request.client not in known.networks):
            detail = "This API key cannot be used from this address."
            return refuse(request, Cause.ADDRESS, detail, reason="key-network")
        if self.scopes is not None:
            try:
                missing = await self._missing_scopes(request, known.identity)
            except AmbiguousPath:
                return refuse_ambiguous(request)
            if missing:
                return self._refuse_scopes(request, missing)
        return await forward(request)

    def _needs_no_key(self, request: Request) -> bool:
        """Whether the request needs no key, by its path."""
        if self.paths is not None and not self.paths.closes(request):
            return True
        return self.public is not None and self.public.opens(request)

    # -- verifying ----------------------------------------------------------------------------------------

    async def _verify(self, request: Request, text: str, fingerprint: bytes, known: Known | None) -> Known | Response:
        """Ask the store, or the look-up. A key that was verified before is no guess."""
        guess = [] if known else self._guess_demands(request)
        if self.lookup is not None:
            verified = await self._look_up(request, text, known, guess)
        else:
            verified = await self._check_record(request, text, known, guess)
        if not isinstance(verified, Known):
            self._known.pop(fingerprint, None)
            return verified
        verified.verified(request.now())
        if known is None and len(self._known) >= REMEMBERED:
            self._known.clear()
        self._known[fingerprint] = verified
        return verified

    async def _without_store(self, request: Request, known: Known | None) -> Known | Response:
        """Keys that were verified a while ago are still accepted; of others nothing is known, least of all evil."""
        now = request.now()
        if known is not None and now < known.not_after:
            age = now - (known.fresh_until - RECHECK)
            if 0 <= age < self._stale:
                await Degraded(f"{self.name} accepted from memory")
                return known
        await Degraded(f"{self.name} refused")
        detail = "The service cannot check API keys at the moment. This says nothing about yours."
        return refuse(request, Cause.FAULT, detail, reason="store-failed", retry_after=SECOND)

    async def _check_record(
        self, request: Request, text: str, known: Known | None, guess: list[Demand]
    ) -> Known | Response:
        key = parse_key(text)
        if key is None:
            taken = await Take(guess)
            if taken.refused:
                return self._refuse_guessing(request, taken)
            return self._refuse(request, "malformed")
        found = await Authenticate(record_key(key.id), self.peppers.digests(key), guess)
        if found.guesses is not None:
            return self._refuse_guessing(request, found.guesses)
        if not found.valid:
            reason = "unknown" if found.record is None else decode(found.record).status(found.at)
            return self._refuse(request, reason, key_id="" if found.record is None else key.id)
        assert found.record is not None
        if known is not None and known.record == found.record:
            return known
        return remembered(found.record)

    async def _look_up(self, request: Request, text: str, known: Known | None, guess: list[Demand]) -> Known | Response:
        # Reserve first, give back on success: guesses that race each other are all counted.
        taken = await self._reserve(request, text, guess)
        if isinstance(taken, Known):
            return taken
        if taken.refused:
            return self._refuse_guessing(request, taken)
        if len(text) > KEY_MAX:
            return self._refuse(request, "malformed")
        assert self.lookup is not None
        wrong = False
        if guess:
            self._looking.begin(guess[0].key)
        try:
            identity = await call(self.lookup, text)
            wrong = identity is None
        finally:
            try:
                if guess and not wrong:  # a look-up that failed is no guess either
                    await GiveBack(taken)
            finally:
                if guess:
                    self._looking.end(guess[0].key, given_back=not wrong)
        if identity is None:
            return self._refuse(request, "unknown")
        if not isinstance(identity, Identity):
            raise TypeError(f"lookup returned {type(identity).__name__}, not an Identity or None")
        return Known(identity, b"", None, FOREVER)

    async def _reserve(self, request: Request, text: str, guess: list[Demand]) -> Taken | Known:
        """Take a guess. Where look-ups on their way hold them all, wait for what they find: they may be no guesses."""
        deadline = request.now() + PATIENCE
        for _ in range(TRIES):
            before = self._looking.signal(guess[0].key) if guess else None
            seen = 0 if before is None else before.count
            taken = await Take(guess)
            left = deadline - request.now()
            if not taken.refused or not guess or left <= 0:
                break
            if before is not None:
                await Wait(before, seen, min(left, PATIENCE) / SECOND)
            elif self._looking.signal(guess[0].key) is None:
                break
            known = self._known.get(fingerprint_of(text))
            if known is not None and known.trusted(request.now()):
                return known  # that was one of them
        return taken

    def _guess_demands(self, request: Request) -> list[Demand]:
        client = request.client
        bucket = "unknown" if client is None else client.bucket
        return [Demand(name, prefix + bucket, limit) for name, prefix, limit in self._guesses]

    # -- scopes -------------------------------------------------------------------------------------------

    async def _needs_no_scopes(self, request: Request) -> bool:
        """Whether the request may be made without a key: nobody has no scopes."""
        return self.scopes is None or not await self._missing_scopes(request, ANONYMOUS)

    async def _missing_scopes(self, request: Request, identity: Identity) -> list[str]:
        needed = self.scopes
        if callable(needed):
            needed = await call(needed, request)
            if needed is None:
                return []
            needed = _checked_scopes(needed)
        assert isinstance(needed, frozenset)
        return sorted(needed - identity.scopes)

    # -- refusing -----------------------------------------------------------------------------------------

    def _refuse(
        self,
        request: Request,
        reason: str,
        detail: str = "The API key is not valid.",
        *,
        sent: bool = True,
        key_id: str = "",
    ) -> Response:
        # error="invalid_token" only where a key was sent (RFC 6750, section 3.1).
        challenge = self._challenge + ', error="invalid_token"' if sent else self._challenge
        return refuse(
            request,
            Cause.CREDENTIALS,
            detail,
            reason=reason,
            headers=[("WWW-Authenticate", challenge)],
            key_id=key_id,
        )

    def _refuse_scopes(self, request: Request, missing: list[str]) -> Response:
        scope = " ".join(missing)
        challenge = f'{self._challenge}, error="insufficient_scope", scope="{scope}"'
        detail = f"The API key is valid, but lacks the scope {scope}."
        return refuse(request, Cause.PERMISSION, detail, reason="scope", headers=[("WWW-Authenticate", challenge)])

    def _refuse_guessing(self, request: Request, taken: Taken) -> Response:
        seconds = whole_seconds(taken.wait)
        detail = f"Too many wrong API keys came from this address. It is heard again in {seconds} seconds."
        return refuse(
            request,
            Cause.ADDRESS,
            detail,
            reason="guessing",
            status=429,
            retry_after=None if taken.wait == NEVER else taken.wait,
            at=taken.at,
            policies=[demand.name for demand in taken.refusing],
        )


def _listed(word: str, texts: Any) -> list[Any]:
    if isinstance(texts, bytes) or not isinstance(texts, Iterable):
        raise ConfigurationError(f"{word} is a list of texts, not {texts!r}")
    return [texts] if isinstance(texts, str) else list(texts)


def _checked_scopes(scopes: Any) -> frozenset[str]:
    if isinstance(scopes, str):
        scopes = scopes.split()
    names = frozenset(scopes)
    for name in names:
        if (
            not isinstance(name, str)
            or not name
            or not name.isascii()
            or not name.isprintable()
            or set(name) & set(' "\\')
        ):
            raise ConfigurationError(f"a scope is printable ASCII text without blanks or quotes, not {name!r}")
    return names
