"""Rate limits and quotas.

A guard may hold several limits: a request takes from all of them at once or from none, and a refusal charges
nothing. Limits that stand next to each other in a stack decide together, in one operation; if a guard further in
refuses, what was taken here is given back.

    RateLimit("10/second; 5000/day", by="key")
    RateLimit("5/minute", by="ip", paths=["/login"], methods=["POST"])
    RateLimit(lambda request: PLANS[request.identity.plan], by="subject", cost=lambda request: 5)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypeVar

from keyguard.clock import SECOND, whole_seconds
from keyguard.errors import ConfigurationError, StoreBusy, StoreError
from keyguard.flow import call, check_takes, is_async
from keyguard.guards import limit_settings as settings
from keyguard.guards.limit_headers import describe
from keyguard.guards.preflight import is_preflight, pass_preflight
from keyguard.ops import Degraded, Demand, GiveBack, Take, TakeHere, Taken
from keyguard.paths import Paths
from keyguard.rates import NEVER, Limit
from keyguard.refusal import AMBIGUOUS_PATH, Cause, refuse, refuse_bad_request, refuse_busy, rfc3339
from keyguard.request import Forward, Request
from keyguard.response import Headers, Response

if TYPE_CHECKING:
    from limits import RateLimitItem

T = TypeVar("T")
Setting: TypeAlias = "T | Callable[[Request], T | Awaitable[T]]"
"""A value, or a function of the request that returns one; the function may be `async` under ASGI."""

Rates: TypeAlias = "str | Limit | RateLimitItem"
By: TypeAlias = 'Literal["ip", "key", "subject"] | Callable[[Request], Any]'
FailureMode: TypeAlias = Literal["local", "refuse", "allow"]
Profile: TypeAlias = Literal["draft-11", "x-ratelimit"]

_KEPT = 4096  # operations that are ready for the next request of the same caller


class _Limiting:
    """The whole of rate limiting: take, and refuse, or forward and tell."""

    def _asked(self, request: Request) -> Take | Response | Awaitable[Take | Response | None] | None:
        """What a request takes; `None` where nothing, a response where it is refused before anything is counted."""
        raise NotImplementedError

    async def __call__(self, request: Request, forward: Forward) -> Response:
        if request.method == "OPTIONS" and is_preflight(request):
            return await pass_preflight(request, forward)
        asked: Any = self._asked(request)
        if asked.__class__ is not Take:
            if asked is not None and not isinstance(asked, Response):
                asked = await asked
            if asked is None:
                return await forward(request)
            if isinstance(asked, Response):
                return asked
        try:
            taken: Taken = await asked
        except StoreBusy:
            return refuse_busy(request)
        except StoreError:
            return await _without_store(request, asked, forward)
        if taken.refused:
            return _refuse(request, taken)
        try:
            response = await forward(request)
        except GeneratorExit:
            raise  # nobody is left who could ask the store
        except BaseException:
            if not request.reached_app:
                await _give_back(taken)  # a guard further in failed, or the client left: the app did nothing for it
            raise
        if request.findings.refusal is not None:
            await _give_back(taken)  # a guard further in refused: nothing is charged for a refused request
        else:
            describe(response.headers, taken)
        return response


class RateLimit(_Limiting):
    """Refuses a caller who has used up a limit, and says when it works again.

    - `rates`: texts such as `"10/second; 5000/day"`, limits such as `smooth("10/second", burst=5)`, rate items of the
      `limits` library, or one function of the request that returns one of these, a list of them, or `None` where no
      limit applies.
    - `by`: who shares a counter. `"ip"` the client's address (IPv6 by /64), `"key"` the API key, `"subject"` whoever
      owns the key; callers without a key are counted by address. Or a function of the request that returns text, a
      number, a tuple of these, or `None` where the limit does not apply.
    - `cost`: units a request takes, a whole number or a function; 0 takes none.
    - `when`, `exempt`: functions of the request; the limit applies if `when` is true and `exempt` is not.
    - `methods`: exact method names it applies to; `GET` means `HEAD` as well, which apps answer with the same code. A
      method that HTTP does not define always counts.
    - `paths`: patterns (`"/items/{id}"`, `"/docs/*"`) it applies to. All paths it applies to share one counter.
    - `name`: stands in the counter's key and in the limit's public name, `name:rate`. By default `by` and the scope.
    - `headers`: which fields tell the caller what is left: `"draft-11"` emits the syntax of
      draft-ietf-httpapi-ratelimit-headers-11, `"x-ratelimit"` the older `X-RateLimit-*`; several, or `None`.

    - `if_store_fails`: what happens while the store is out of order. `"local"` keeps callers to `limit / workers` in
      each process (see `Keyguard`), `"allow"` lets everybody through, `"refuse"` nobody. Who is refused then gets a 503
      with cause `fault`, never a 429.

    A CORS preflight without a key is not counted, and answered without a body.

    Raises `ConfigurationError` for a setting that is wrong.
    """

    def __init__(
        self,
        *rates: Rates | Callable[[Request], Any],
        by: By = "ip",
        cost: Setting[int] = 1,
        when: Setting[bool] | None = None,
        exempt: Setting[bool] | None = None,
        methods: Iterable[str] | None = None,
        paths: Iterable[str] | None = None,
        name: str | None = None,
        headers: Profile | Sequence[Profile] | None = "draft-11",
        if_store_fails: FailureMode = "local",
    ) -> None:
        patterns = () if paths is None else Paths(paths, trailing_slash=True).texts
        self.by = settings.checked_by(by)
        self.cost = settings.checked_cost(cost)
        self.when = settings.checked_condition("when", when)
        self.exempt = settings.checked_condition("exempt", exempt)
        self.methods = settings.checked_methods(methods)
        self._uncounted = settings.uncounted_methods(self.methods)
        self.paths = None if paths is None else Paths(patterns, trailing_slash=True)
        self.profiles = settings.checked_profiles(headers)
        self.name = settings.checked_name(settings.default_name(by, self.methods, patterns) if name is None else name)
        self.if_store_fails = settings.checked_failure_mode(if_store_fails)
        self.choose: Callable[[Request], Any] | None = None
        self.rules: tuple[settings.Rule, ...] = ()
        if len(rates) == 1 and callable(rates[0]):
            check_takes("a function that chooses the limit", rates[0], "the request")
            self.choose = rates[0]
        else:
            self.rules = settings.rules_of(self.name, rates, self.profiles, self.if_store_fails)
        if isinstance(self.cost, int):
            for rule in self.rules:
                if self.cost > rule.limit.most:
                    raise ConfigurationError(
                        f"{rule.name}: a cost of {self.cost} is more than it ever admits, {rule.limit.most}"
                    )
        self.needs = frozenset({"identity"}) if by in ("key", "subject") else frozenset()
        self._fixed = (
            self.choose is None
            and isinstance(self.cost, int)
            and isinstance(self.by, str)
            and self.when is None
            and self.exempt is None
        )
        self._ready: dict[str, Take] = {}

    def __repr__(self) -> str:
        return f"<RateLimit {self.name}: {', '.join(rule.limit.text for rule in self.rules) or 'by function'}>"

    def asynchronous(self) -> dict[str, object]:
        """The settings that only an event loop can run."""
        functions = {"by": self.by, "cost": self.cost, "when": self.when, "exempt": self.exempt, "rates": self.choose}
        return {word: value for word, value in functions.items() if is_async(value)}

    # -- whether, and what, a request takes ---------------------------------------------------------------

    def _asked(self, request: Request) -> Take | Response | Awaitable[Take | Response | None] | None:
        return self._fixed_take(request) if self._fixed else self._chosen_take(request)

    def _scope(self, request: Request) -> bool | Response:
        """Whether the request is one that this limit counts; a refusal where its path cannot be read in one way."""
        if request.method in self._uncounted:
            return False
        if self.paths is None:
            return True
        if request.ambiguous:
            return refuse_bad_request(request, AMBIGUOUS_PATH, reason="ambiguous-path")
        return self.paths.match(request.path)

    def _bucket(self, request: Request) -> str:
        if self.by == "ip":
            client = request.client
            return "unknown" if client is None else client.bucket
        identity = request.findings.identity
        if identity is None:
            raise ConfigurationError(f"{self!r} counts by {self.by}, but no APIKeys stands outside it")
        if identity.anonymous:
            client = request.client
            return "@unknown" if client is None else "@" + client.bucket
        return settings.bucket_text(identity.key_id if self.by == "key" else identity.subject)

    def _fixed_take(self, request: Request) -> Take | Response | None:
        """What the request takes, where no function has a say in it."""
        if self.paths is not None or self._uncounted:
            counts = self._scope(request)
            if counts is not True:
                return counts or None
        bucket = self._bucket(request)
        take = self._ready.get(bucket)
        if take is None:
            if len(self._ready) >= _KEPT:
                self._ready.clear()
            take = self._ready[bucket] = _take(self.rules, bucket, self.cost)
        return take

    async def _chosen_take(self, request: Request) -> Take | Response | None:
        """What the request takes, where functions decide."""
        counts = self._scope(request)
        if counts is not True:
            return counts or None
        if self.when is not None and not await call(self.when, request):
            return None
        if self.exempt is not None and await call(self.exempt, request):
            return None
        rules = self.rules
        if self.choose is not None:
            chosen = await call(self.choose, request)
            if chosen is None:
                return None
            rates = tuple(chosen) if isinstance(chosen, (list, tuple)) else (chosen,)
            rules = settings.known_rules_of(self.name, rates, self.profiles, self.if_store_fails)
        if isinstance(self.by, str):
            bucket = self._bucket(request)
        else:
            who = await call(self.by, request)
            if who is None:
                return None
            bucket = settings.digest(who)
        cost = self.cost if isinstance(self.cost, int) else settings.whole_cost(await call(self.cost, request))
        return _take(rules, bucket, cost)


class Together(_Limiting):
    """Rate limits that stand next to each other: one operation takes from all of them, or from none."""

    def __init__(self, limits: Sequence[RateLimit]) -> None:
        self.limits = tuple(limits)
        self._fixed = all(limit._fixed for limit in limits)
        self._ready: dict[tuple[Take, ...], Take] = {}

    def _asked(self, request: Request) -> Take | Response | Awaitable[Take | Response | None] | None:
        if not self._fixed:
            return self._chosen_take(request)
        takes = []
        for limit in self.limits:
            asked = limit._fixed_take(request)
            if isinstance(asked, Response):
                return asked
            if asked is not None:
                takes.append(asked)
        if len(takes) < 2:
            return takes[0] if takes else None
        together = tuple(takes)
        joined = self._ready.get(together)
        if joined is None:
            if len(self._ready) >= _KEPT:
                self._ready.clear()
            joined = self._ready[together] = _joined(together)
        return joined

    async def _chosen_take(self, request: Request) -> Take | Response | None:
        takes = []
        for limit in self.limits:
            asked: Any = limit._asked(request)
            if asked is not None and not isinstance(asked, (Take, Response)):
                asked = await asked
            if isinstance(asked, Response):
                return asked
            if asked is not None:
                takes.append(asked)
        return _joined(takes) if takes else None


def _take(rules: Sequence[settings.Rule], bucket: str, cost: int) -> Take:
    demands = [Demand(rule.name, rule.prefix + bucket, rule.limit, cost) for rule in rules]
    return Take(settings.RuleDemands(rules, demands))


def _joined(takes: Sequence[Take]) -> Take:
    rules: list[settings.Rule] = []
    demands: list[Demand] = []
    for take in takes:
        assert isinstance(take.demands, settings.RuleDemands)
        rules += take.demands.rules
        demands += take.demands
    return Take(settings.RuleDemands(rules, demands))


async def _give_back(taken: Taken) -> None:
    try:
        await GiveBack(taken)
    except StoreError:
        await Degraded("a charge kept")  # it lapses with its window; the request has its answer


async def _without_store(request: Request, asked: Take, forward: Forward) -> Response:
    """Decide while the store is out of order: each limit as it was told to."""
    demands = asked.demands
    assert isinstance(demands, settings.RuleDemands)
    here: list[Demand] = []
    for rule, demand in zip(demands.rules, demands, strict=True):
        await Degraded(f"{rule.guard} {_DONE[rule.if_store_fails]}")
        if rule.if_store_fails == "refuse":
            return _refuse_without_store(request)
        if rule.if_store_fails == "local":
            here.append(demand)
    if here and (await TakeHere(here)).refused:
        await Degraded("limits refused locally")
        return _refuse_without_store(request)
    return await forward(request)  # what is left of the limits is not known, so nothing is told of it


_DONE = {"refuse": "refused", "local": "counted locally", "allow": "allowed"}

_OUT_OF_ORDER_RETRY = SECOND
"""What a caller is told to wait, in microseconds: the store is asked again more often than that."""


def _refuse_without_store(request: Request) -> Response:
    return refuse(
        request,
        Cause.FAULT,
        "The service cannot check its limits at the moment. Neither your key nor what you have used is the reason.",
        reason="store-failed",
        retry_after=_OUT_OF_ORDER_RETRY,
    )


def _refuse(request: Request, taken: Taken) -> Response:
    refusing: list[Demand] = taken.refusing
    policies = [demand.name for demand in refusing]
    names = " and ".join(f"'{name}'" for name in policies)
    headers = Headers()
    describe(headers, taken)
    wait = taken.wait
    if wait == NEVER:
        cost = max(demand.cost for demand in refusing)
        detail = f"This request costs {cost} units, more than {names} ever allows. Waiting does not help."
        return refuse(request, Cause.USAGE, detail, reason="cost-above-limit", policies=policies, headers=headers)
    seconds = whole_seconds(wait)
    subject = f"The limit {names} is" if len(refusing) == 1 else f"The limits {names} are"
    span = "1 second" if seconds == 1 else f"{seconds} seconds"
    detail = f"{subject} used up. It works again in {span}, at {rfc3339(taken.at + wait + 999_999)}."
    return refuse(
        request,
        Cause.USAGE,
        detail,
        reason="limit-reached",
        retry_after=wait,
        at=taken.at,
        policies=policies,
        headers=headers,
    )
