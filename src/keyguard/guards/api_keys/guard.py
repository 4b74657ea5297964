"""Authentication by API key.

Rules:
- It fails closed. If the store or a look-up cannot answer, the request is refused with 503: never let through,
  and never told that its key is bad.
- An unknown, malformed, expired or revoked key gets the same words; the log tells them apart.
- A wrong key counts against the address it came from. A source that guesses too often is told so for a while; a right
  key of the registry passes all the same, whatever its neighbours send: nobody guesses 190 bits. So it is verified
  first, and waits for no counter; what must be bounded is the work. Look-ups are another matter: see `look_ups.py`.
- A record is trusted if its seal is right: write access to the store alone cannot give a key more rights.
- The registry comes first: what is spelled as its keys are is for it alone, whatever it says; then come keys that were
  imported, then a look-up. If the store cannot tell whether it knows a key, nobody else is asked: it may have been
  revoked there.
- Keys that were verified are trusted for half a second without asking the store again: see `verified.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import Any, Literal, TypeAlias

from keyguard.aside import in_turn, putting_back
from keyguard.chain import follow
from keyguard.clock import Clock, wall_clock
from keyguard.conditions import OnPaths, on_paths
from keyguard.errors import AmbiguousPath, ConfigurationError
from keyguard.flow import Flow, call, is_async
from keyguard.guard import Ask, Decide, Guard, Surroundings
from keyguard.guards.api_keys import settings
from keyguard.guards.api_keys.at_once import deciding
from keyguard.guards.api_keys.guesses import UNNAMED, Guesses, Refusals
from keyguard.guards.api_keys.look_ups import Lookup, LookUps
from keyguard.guards.api_keys.others import Others
from keyguard.guards.api_keys.records import Records
from keyguard.guards.api_keys.refusals import KeyRefusals
from keyguard.guards.api_keys.verified import KnownKeys, fingerprint_of
from keyguard.guards.preflight import may_pass, pass_preflight
from keyguard.identity import ANONYMOUS, Identity
from keyguard.keys import KeyRegistry, Pepper, Peppers
from keyguard.keys.credentials import Sources
from keyguard.keys.format import check_words
from keyguard.manual_clock import given_by
from keyguard.ops import Store
from keyguard.problem import refuse_ambiguous, refuse_bad_request
from keyguard.request import CarriedRequest, Forward, Request
from keyguard.response import Response
from keyguard.steps import PASSED, let_pass
from keyguard.units import Duration

Scopes: TypeAlias = Iterable[str] | Callable[[Request], Any]


class APIKeys(Guard):
    """Let callers with a valid API key through, and find out whose it is.

    - `lookup`: your own function from key text to `Identity` or `None`; without it, keys are those that
      `Keyguard.keys` and `keyguard keys` issue. An `async def` runs in the event loop; a `def` in a thread under ASGI,
      with the context variables of the request, and in place under WSGI. It is not asked about an empty key. The name
      that it gives the caller stands in logs and stores: it must not be the key itself.
    - `issued`: whether the keys that `Keyguard.keys` and `keyguard keys` issue are accepted. By default they are if
      there is no `lookup`; `APIKeys(lookup=..., issued=True)` accepts both. A text that is spelled as an issued key is
      never looked up: what the registry says of it counts, and an outage of the store is told with 503.
    - `imported`: whether keys that `keyguard keys import` took over are accepted; then issued ones are, too. A text is
      looked for among them before a `lookup` is asked.
    - `hmac_secret`: what imported keys were hashed with, if that is HMAC-SHA-256. By default the environment's
      `KEYGUARD_HMAC_SECRET`.
    - `sources`: where a key may stand: names of header fields (`"authorization"` means its Bearer scheme, RFC 6750),
      `"authorization:Token"` for another scheme, `"basic:user"` or `"basic:password"`, `"cookie:name"`, `"query:name"`,
      `"subprotocol:name"` for a websocket subprotocol `name.KEY`. A key in the query ends in logs and browser
      histories: off by default. A Bearer text that does not begin with `prefix` is not a key, but an app's own: beside
      a key it is ignored. With a `lookup` or `imported` every text is a key. Two different keys are refused, wherever
      they stand.
    - `strip`: whether what stands in the `sources` is taken off the request before the app sees it.
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
    - `if_store_fails`, `stale_if_error`: while the store is out of order, `"local"` goes on accepting keys that this
      process has verified within the last `stale_if_error`, `"refuse"` accepts none. All others get a 503, cause
      `fault`.
    - `realm`: named in the challenge of a 401.
    - `name`: stands in the keys under which wrong keys are counted.
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
        issued: bool | None = None,
        imported: bool = False,
        hmac_secret: str | bytes | None = None,
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
        strip: bool = False,
        name: str = UNNAMED,
    ) -> None:
        self.lookup: Lookup | None = settings.checked_lookup(lookup)
        check_words(prefix, "live" if env is None else env)
        self.prefix, self.env = prefix, env
        self.issued = settings.checked_issued(issued, lookup, settings.switch("imported", imported))
        beginning = "" if lookup or imported else f"{prefix}_"
        self.sources = Sources(settings.listed("sources", sources), beginning)
        patterns = public if isinstance(public, OnPaths) else settings.listed("public", public) or None
        self.public = on_paths("public", patterns, False)
        self.paths = on_paths("paths", paths, ignore_case)
        self.optional = settings.switch("optional", optional)
        self.lets_anonymous_pass = self.optional or self.public is not None or self.paths is not None
        self.strips = settings.switch("strip", strip)
        self.preflights = settings.checked_preflights(preflights)
        self.scopes = settings.needed_scopes(scopes)
        self.peppers = Peppers(pepper)
        self.name = settings.checked_name(name)
        self._guesses = Guesses(name, guesses, lookup)
        self.facts = self._guesses.facts
        self._refuse = KeyRefusals(settings.checked_realm(realm), self.sources)
        self._known = KnownKeys()
        self.records = Records(
            name,
            self._known,
            prefix=prefix,
            env=env,
            peppers=self.peppers,
            scopes=self.scopes,
            guesses=self._guesses,
            guess_exempt=settings.checked_networks("guess_exempt", guess_exempt),
            refuse=self._refuse,
            stale=settings.stale_for(if_store_fails, stale_if_error),
            imported=settings.imported_keys(imported, self.peppers, hmac_secret),
        )
        """Keys of the registry, and what is asked about them."""
        self._others: Others | None = None
        """The keys of which the registry does not decide alone."""
        if lookup is not None or self.records.imported is not None:
            self._others = Others(name, self.records, LookUps(name, lookup, self._guesses), lookup is not None)
        self._registry: KeyRegistry | None = None
        self._clock: Clock = wall_clock
        self.assumed: Identity | None = None
        """The caller of requests without a key, in a test that names one."""

    def attach(self, stack: Surroundings) -> None:
        """Take note of the stack's clock, by which keys are issued."""
        if stack.clock is not self._clock:
            self._clock, self._registry = stack.clock, None

    def set_aside(self) -> Callable[[], None]:
        of_records = putting_back(self.records, "known", "refusals")
        put_back = in_turn(of_records, putting_back(self, "_known", "_registry", "_clock"))
        self._known = self.records.known = KnownKeys(doubting=True)
        self.records.refusals = Refusals()
        return put_back

    def after_fork(self) -> None:
        """Make the locks anew in a forked child."""
        self._known.after_fork()
        self.records.refusals.after_fork()
        if self._others is not None:
            self._others.after_fork()

    def __repr__(self) -> str:
        return f"<APIKeys {self.name}>"

    def asynchronous(self) -> dict[str, object]:
        """Return the settings that only an event loop can run."""
        settings = {"lookup": self.lookup, "scopes": self.scopes}
        return {word: value for word, value in settings.items() if is_async(value)}

    def registry(self, store: Store) -> KeyRegistry:
        """Return the registry of the keys in `store` that this guard accepts."""
        if not self.issued:
            raise ConfigurationError(
                "this APIKeys has a lookup of its own: its keys are kept there, unless issued=True is set"
            )
        if self._registry is None or self._registry.store is not store:
            self._registry = KeyRegistry(
                store,
                pepper=self.peppers,
                prefix=self.prefix,
                env=self.env or "live",
                clock=given_by(self._clock),
                hmac_secret=self.records.imported,
            )
        return self._registry

    def warn_of_workers(self, workers: int) -> str:
        if self.issued:
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
        return await self._verify(request, forward)

    async def _verify(self, request: CarriedRequest, forward: Forward) -> Response:
        """Forward a request with a valid key, whatever its path."""
        state = request.state
        sent = self._sent(request)
        if len(sent) != 1:
            passes = False
            if not sent:
                state.identity = state.identity or ANONYMOUS
                if may_pass(request, self.preflights) and not self.sources.foreign(request):
                    return await pass_preflight(request, forward)
                if self.assumed is not None:
                    within = partial(self._within_scopes, forward) if callable(self.scopes) else forward
                    return self.assume(request) or await within(request)
                try:
                    passes = self.optional and not await self._missing_scopes(request, ANONYMOUS)
                except AmbiguousPath:
                    return refuse_ambiguous(request)
            return await forward(request) if passes else self.refuse_without_key(request, sent)
        text = sent.pop()
        fingerprint = fingerprint_of(text.encode("latin-1"))
        known = self._known.get(fingerprint)
        answer: Response | Ask | None
        if known is not None and known.trusted(request.clock()):
            answer = self.records.admit(request, known)
        elif self._others is None or (self.issued and (self.records.ours(text) or (known and known.place))):
            answer = self.records.ask(request, text, fingerprint, known)
        else:
            answer = await self._others.ask(request, text, fingerprint, known)
        del text  # error trackers show the variables of whatever an error of the app passes through
        if callable(self.scopes):
            forward = partial(self._within_scopes, forward)
        if isinstance(answer, Ask):
            return await follow(answer, request, forward)
        return await forward(request) if answer is None else answer

    def _sent(self, request: CarriedRequest) -> set[str]:
        """Return the keys that a request carries, or has carried before they were taken off for the app."""
        return {*getattr(request, "stripped", ())} or self.sources.read(request)

    def needs_no_key(self, request: CarriedRequest) -> bool:
        """Tell whether the request needs no key, by its path."""
        if self.paths is not None and not self.paths.closes(request):
            return True
        return self.public is not None and self.public.opens(request)

    def assume(self, request: CarriedRequest) -> Response | None:
        """Take a request without a key for one of the caller whom a test has named."""
        identity = request.state.identity = self.assumed or ANONYMOUS
        missing = [] if self.records.scopes is None else sorted(self.records.scopes - identity.scopes)
        return self._refuse.scopes(request, missing) if missing else None

    def refuse_without_key(self, request: CarriedRequest, sent: Collection[str]) -> Response:
        """Refuse a request that has no key, or several."""
        if sent:
            detail = "The request carries two different API keys. Send one."
            return refuse_bad_request(request, detail, reason="two-keys")
        if self.sources.foreign(request):  # not a guess of ours: it cannot be a key
            return self._refuse.key(request, "malformed")
        return self._refuse.without_key(request, mistaken=self.sources.mistaken(request))

    @property
    def challenge(self) -> str:
        """Return what the `WWW-Authenticate` field of a 401 says."""
        return ", ".join(self._refuse.challenges)

    def judge(self, request: CarriedRequest, scopes: frozenset[str]) -> Response | Flow[Response | None] | None:
        """Refuse a request inside the app that has passed without a key, or whose key lacks one of these scopes.

        If its path needs no key, that has not been looked at: then a flow is returned that does it.
        """
        identity = request.state.identity or ANONYMOUS
        if identity.anonymous:
            unread = (self.public is not None or self.paths is not None) and self.needs_no_key(request)
            if unread and (self.assumed is not None or self._sent(request)):
                return self._judge_unread(request, scopes)
            return self.refuse_without_key(request, ())
        missing = sorted(scopes - identity.scopes)
        return self._refuse.scopes(request, missing) if missing else None

    async def _judge_unread(self, request: CarriedRequest, scopes: frozenset[str]) -> Response | None:
        answer = await self._verify(request, let_pass)
        if answer is not PASSED:
            return answer
        missing = sorted(scopes - (request.state.identity or ANONYMOUS).scopes)
        return self._refuse.scopes(request, missing) if missing else None

    # -- scopes -------------------------------------------------------------------------------------------

    async def _within_scopes(self, forward: Forward, request: CarriedRequest) -> Response:
        """Forward a request, if its key holds the scopes that a function returns."""
        try:
            missing = await self._missing_scopes(request, request.state.identity or ANONYMOUS)
        except AmbiguousPath:
            return refuse_ambiguous(request)
        return self._refuse.scopes(request, missing) if missing else await forward(request)

    async def _missing_scopes(self, request: CarriedRequest, identity: Identity) -> list[str]:
        needed = self.scopes
        if callable(needed):
            needed = await call(needed, request)
            if needed is not None:
                needed = settings.checked_scopes(needed)
        return [] if needed is None else sorted(needed - identity.scopes)
