"""`KeyPool`: the keys with which an app calls a provider."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal, Self, Unpack

from keyguard.clock import steady_clock
from keyguard.errors import ConfigurationError, StoreError
from keyguard.manual_clock import GivenClock, clock_from
from keyguard.ops import Store
from keyguard.ops.upstream import Learn
from keyguard.process.background import Job
from keyguard.process.event_loops import in_thread
from keyguard.stores import open_store
from keyguard.upstream import profiles
from keyguard.upstream.answers import Asked, UpstreamRequest
from keyguard.upstream.asking import Asking
from keyguard.upstream.by_hand import Acquiring, AsyncAcquiring
from keyguard.upstream.events import Telling, UpstreamEvent
from keyguard.upstream.for_operators import ForOperators
from keyguard.upstream.judging import ByProfile
from keyguard.upstream.keys import PLACEHOLDER, Key
from keyguard.upstream.origins import Origin, origin_of
from keyguard.upstream.outbox import Outbox
from keyguard.upstream.parts import PoolParts
from keyguard.upstream.place import StorePlace
from keyguard.upstream.profiles import Profile
from keyguard.upstream.settings import (
    Cost,
    KnownSettings,
    PoolSettings,
    attempts_of,
    callable_or_none,
    groups_of,
    models_of,
    origins_of,
    pool_name,
    replays,
    whole,
)
from keyguard.upstream.transports.options import TransportOptions
from keyguard.upstream.written import writing

_EVERY = 1.0
"""Seconds after which reports are sent that no request has taken along."""


class KeyPool(ForOperators):
    """The keys with which an app calls a provider: each request is sent with the first that has room.

        pool = KeyPool.openai([Key("eu", env="OPENAI_EU", group="org-a"), Key("spare", env="OPENAI_B", rank=1)],
                              store="redis://...", models=["gpt-5*"], limits={"org-a": {"rpm": 500, "tpm": 200_000}})

    All processes that share the store share what is known of the limits. It learns them from what the provider answers;
    those that are given it knows from the start. A key that is used up, has no money left or is dead is left alone
    until it works again, and if none has room within `max_wait`, the caller gets the provider's refusal, or a 429 like
    it.

    It is for keys of distinct entitlements, such as those of several projects, regions or customers. It is not for
    evading limits: most providers forbid that.
    """

    def __init__(
        self,
        keys: Iterable[Key],
        *,
        profile: str | Profile = "generic",
        origin: str | Sequence[str] | None = None,
        name: str | None = None,
        store: str | Store = "memory://",
        clock: GivenClock | None = None,
        models: Sequence[str] = (),
        limits: Mapping[str, Mapping[str, int]] | None = None,
        max_wait: float = 20,
        max_waiting: int = 1000,
        max_attempts: int | None = None,
        workers: int = 1,
        replay: Literal["5xx"] | None = None,
        cost: Cost | None = None,
        on_event: Callable[[UpstreamEvent], None] | None = None,
    ) -> None:
        """Check all settings; a mistake raises `ConfigurationError`, and no message repeats a secret.

        - `profile`: what is known of the provider. `origin`: the origins that get a key, exactly these; by default the
          profile's.
        - `name`: pools of one name in one store share what they know; by default the profile's.
        - `models`: names or globs of models that have limits of their own. All others count as one.
        - `limits`: of each group, such as `{"org-a": {"rpm": 500, "tpm": 200_000}}`, if they are known.
        - `max_wait`: seconds that a request may wait for room in all. `max_waiting`: the requests of a process that
          wait for one class of models; what comes beyond is told at once how long it would have to wait.
        - `max_attempts`: how often one request may be sent; by default once a group and twice more, at most 8 times.
        - `workers`: the processes among which limits are shared out while the store is out of order.
        - `replay="5xx"`: requests may be sent again after such an answer, though they may have run.
        - `cost`: a function that estimates what a request costs, instead of the profile.
        - `on_event`: a function that is told of each `UpstreamEvent`.
        """
        self.profile = profiles.get(profile) if isinstance(profile, str) else profile
        if not isinstance(self.profile, Profile):
            raise ConfigurationError(f"profile is a name, such as 'openai', not {type(profile).__name__}")
        self.name = pool_name(self.profile.name if name is None else name)
        groups = groups_of(keys, limits)
        self.origins: frozenset[Origin] = origins_of(origin, self.profile)
        callable_or_none("on_event", on_event)
        self._asking = Asking(self.profile, cost, max_wait)
        now = clock_from(clock, steady_clock())
        self._job = Job(f"upstream pool {self.name}", self._flush, _EVERY, clock=now)
        outbox = Outbox(now, self._job.wake)
        self.parts = PoolParts(
            self.name,
            groups,
            ByProfile(self.profile),
            models=models_of(models),
            clock=now,
            telling=Telling(self.name, on_event),
            outbox=outbox,
            workers=whole("workers", workers, 1, 100_000),
            max_waiting=whole("max_waiting", max_waiting, 0, 1_000_000),
            max_attempts=attempts_of(max_attempts, len(groups)),
            replay=replays(replay),
            hurry=self._hurry,
        )
        self.place = StorePlace(open_store(store, clock), clock=now)
        self._noted = 0
        """The process that has written the pool down."""

    def __repr__(self) -> str:
        return f"<KeyPool {getattr(self, 'name', '')!r}>"

    @property
    def keys(self) -> Iterable[Key]:
        """The keys, in the order of their groups."""
        return [key for group in self.parts.groups for key in group.keys]

    @property
    def placeholder(self) -> str:
        """The text that SDKs are given as their key. The pool's transports take it off; it is sent nowhere."""
        return PLACEHOLDER

    # -- providers --------------------------------------------------------------------------------------------

    @classmethod
    def openai(cls, keys: Iterable[Key], **settings: Unpack[KnownSettings]) -> Self:
        """Return a pool of keys of OpenAI."""
        return cls(keys, profile="openai", **settings)

    @classmethod
    def azure(cls, keys: Iterable[Key], origin: str | Sequence[str], **settings: Unpack[PoolSettings]) -> Self:
        """Return a pool of keys of Azure OpenAI; `origin` is that of the resource."""
        return cls(keys, profile="azure", origin=origin, **settings)

    @classmethod
    def anthropic(cls, keys: Iterable[Key], **settings: Unpack[KnownSettings]) -> Self:
        """Return a pool of keys of Anthropic."""
        return cls(keys, profile="anthropic", **settings)

    @classmethod
    def gemini(cls, keys: Iterable[Key], **settings: Unpack[KnownSettings]) -> Self:
        """Return a pool of keys of Gemini."""
        return cls(keys, profile="gemini", **settings)

    @classmethod
    def mistral(cls, keys: Iterable[Key], **settings: Unpack[KnownSettings]) -> Self:
        """Return a pool of keys of Mistral."""
        return cls(keys, profile="mistral", **settings)

    @classmethod
    def groq(cls, keys: Iterable[Key], **settings: Unpack[KnownSettings]) -> Self:
        """Return a pool of keys of Groq."""
        return cls(keys, profile="groq", **settings)

    @classmethod
    def openrouter(cls, keys: Iterable[Key], **settings: Unpack[KnownSettings]) -> Self:
        """Return a pool of keys of OpenRouter."""
        return cls(keys, profile="openrouter", **settings)

    @classmethod
    def github(cls, keys: Iterable[Key], **settings: Unpack[KnownSettings]) -> Self:
        """Return a pool of tokens of GitHub."""
        return cls(keys, profile="github", **settings)

    @classmethod
    def stripe(cls, keys: Iterable[Key], **settings: Unpack[KnownSettings]) -> Self:
        """Return a pool of keys of Stripe."""
        return cls(keys, profile="stripe", **settings)

    @classmethod
    def generic(cls, keys: Iterable[Key], origin: str | Sequence[str], **settings: Unpack[PoolSettings]) -> Self:
        """Return a pool of keys of any provider at an origin."""
        return cls(keys, profile="generic", origin=origin, **settings)

    # -- requests ---------------------------------------------------------------------------------------------

    def allows(self, url: str) -> bool:
        """Tell whether requests to a URL get a key: its origin is one of the pool's."""
        return origin_of(url) in self.origins

    def asked(self, request: UpstreamRequest, options: Mapping[str, Any] | None = None) -> Asked:
        """Return what the flow must know of a request.

        `options` are the request's own wishes: `affinity`, `cost`, `max_wait`, `model`. Raises `ConfigurationError` for
        others.
        """
        return self._asking.of(request, {} if options is None else options)

    def transport(self, **options: Unpack[TransportOptions]) -> Any:
        """Return the `transport=` of an `httpx.Client` or of one of httpx2, which most SDKs take as `http_client=`.

        `options` are those of what really sends, such as `verify`, `limits` and `http2`, or it is given as `transport`
        itself. It connects through the proxies of the environment, as a client without `transport=` does.
        """
        from keyguard.upstream.transports.httpx import PoolTransport  # which nobody else needs

        return PoolTransport(self, **options)

    def async_transport(self, **options: Unpack[TransportOptions]) -> Any:
        """Return the `transport=` of an `AsyncClient` of httpx or httpx2, under asyncio or trio."""
        from keyguard.upstream.transports.httpx import AsyncPoolTransport

        return AsyncPoolTransport(self, **options)

    def requests_adapter(
        self,
        *,
        options: Mapping[str, Any] | None = None,
        pool_connections: int = 10,
        pool_maxsize: int = 10,
        max_retries: Any = 0,
        pool_block: bool = False,
    ) -> Any:
        """Return the adapter of a `requests.Session`: mount it under the pool's origin.

        `options` are the wishes of all its requests: `affinity`, `cost`, `max_wait`. The others are those of requests'
        `HTTPAdapter`.
        """
        from keyguard.upstream.transports.requests import PoolAdapter

        return PoolAdapter(
            self,
            options=options,
            pool_connections=pool_connections,
            pool_maxsize=pool_maxsize,
            max_retries=max_retries,
            pool_block=pool_block,
        )

    def aiohttp(self, *, options: Mapping[str, Any] | None = None) -> Any:
        """Return one of the `middlewares=` of an `aiohttp.ClientSession` (3.12 or newer).

        `options` are the wishes of all its requests: `affinity`, `cost`, `max_wait`.
        """
        from keyguard.upstream.transports.aiohttp import PoolMiddleware

        return PoolMiddleware(self, options=options)

    def acquire(
        self,
        *,
        model: str = "",
        cost: Mapping[str, int] | None = None,
        affinity: str = "",
        max_wait: float | None = None,
    ) -> Acquiring:
        """Return a block that has a key, for calls that no transport of ours makes: `with pool.acquire() as grant`.

        The block calls `grant.report` with the answer, or `grant.give_back` if nothing was sent. It raises
        `UpstreamExhausted` if no key has room within `max_wait` seconds.
        """
        return Acquiring(self, self._asking.by_hand(model, cost, affinity, max_wait))

    def aacquire(
        self,
        *,
        model: str = "",
        cost: Mapping[str, int] | None = None,
        affinity: str = "",
        max_wait: float | None = None,
    ) -> AsyncAcquiring:
        """Do as `acquire` does, under an event loop: `async with pool.aacquire() as grant`."""
        return AsyncAcquiring(self, self._asking.by_hand(model, cost, affinity, max_wait))

    def close(self) -> None:
        """Send what is still to be learnt from. The pool can be used again, and its store is not closed."""
        self._job.end()

    async def aclose(self) -> None:
        """Do as `close` does, under an event loop."""
        await in_thread(self._job.end)

    def _hurry(self) -> None:
        if not self.place.failing:
            self._job.soon()

    def _flush(self, last: bool) -> None:
        outbox = self.parts.outbox
        if self._noted != os.getpid() and not self.place.failing:
            with suppress(StoreError):
                self.place.execute(writing(self.parts))
                self._noted = os.getpid()
        while taken := outbox.take():
            sent = False
            try:
                self.place.execute(Learn(outbox.reports(taken)))
                sent = True
            except StoreError:
                return
            finally:
                if not sent:
                    outbox.put_back(taken)
