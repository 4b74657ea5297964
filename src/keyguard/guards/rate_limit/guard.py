"""Rate limits and quotas.

A guard may hold several limits: a request takes from all of them at once or from none, and a refusal charges
nothing. Limits that stand next to each other in a stack decide together, in one operation; if a guard further in
refuses, what was taken here is given back.

    RateLimit("10/second; 5000/day", by="key")
    RateLimit("5/minute", by="ip", paths=["/login"], methods=["POST"])
    RateLimit(plans={"free": "2/second; 100/day", "pro": "50/second"}, default="free", by="subject")
    RateLimit(limit_of_tenant, by=tenant, cost=lambda request: 5)
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from keyguard.body_fields import BodyField
from keyguard.conditions import OnPaths
from keyguard.errors import ConfigurationError
from keyguard.flow import check_takes, is_async
from keyguard.guard import LONG, Decide, Long
from keyguard.guards.rate_limit import rules as settings
from keyguard.guards.rate_limit.at_once import deciding
from keyguard.guards.rate_limit.checks import Limiting
from keyguard.guards.rate_limit.naming import counters_of, names_of
from keyguard.guards.rate_limit.overriding import NO_LIMIT, overridden
from keyguard.guards.rate_limit.settling import Refunds, Settler, settler_of
from keyguard.ops import Take
from keyguard.rates import Limit
from keyguard.refusal import Cause
from keyguard.request import CarriedRequest, Request
from keyguard.selection import Asking, By, Selection, Setting, asked, asked_at_once, at_hand, identity_for
from keyguard.uncounted import NotCounted
from keyguard.without_store import FailureMode, checked_failure_mode

if TYPE_CHECKING:
    from limits import RateLimitItem

Rates: TypeAlias = "str | Limit | RateLimitItem"
Profile: TypeAlias = Literal["draft-11", "draft-next", "x-ratelimit", "github"]
Tell: TypeAlias = Literal["all", "binding"]

_numbers = itertools.count(1)
_TOLD = 100  # plans that the log has been told of

log = logging.getLogger("keyguard")


class RateLimit(Limiting):
    """Refuse a caller who has used up a limit, and say when it works again.

    - `rates`: texts such as `"10/second; 5000/day"`, limits such as `smooth("10/second", burst=5)`,
      `quota("10000/month")` or `credits(500)`, rate items of the `limits` library, or one function of the request that
      returns one of these, a list of them, or `None` if no limit applies.
    - `plans`, `default`: instead of rates, a mapping from the plan of the caller's key to the rates of that plan,
      `None` for no limit: `plans={"free": "2/second; 100/day", "pro": "50/second"}, default="free"`. A plan of
      `0`, or `"0/day"`, does not include what the limit is about: its callers get a 403 with the cause `permission`.
      `default`, a plan's name or rates, is for callers with no plan, or with one that is not listed, of which the log
      tells once.
    - `by`: who shares a counter. `"ip"` the client's address (IPv6 by /64), `"key"` the API key, `"subject"` whoever
      owns the key; callers without a key are counted by address. Or a function of the request that returns text, bytes,
      a number, a `UUID`, a member of an `Enum`, a tuple of these, or `None` if the limit does not apply. Or a
      field of the body, `json_field("username")` or `form_field("username")`. By default `"ip"`, with plans
      `"subject"`.
    - `cost`: units a request takes, a whole number or a function. One of 0 takes none, and is never refused: units of a
      limit with `cost=0` are used by handlers alone, by `Keyguard.charge` and `Keyguard.reserve`.
    - `when`, `exempt`: functions of the request, or `path(...)`: the limit applies if `when` is true and `exempt` is
      not.
    - `methods`: exact method names it applies to; `GET` means `HEAD` as well, which apps answer with the same code. A
      method that HTTP does not define always counts, and so does a request with a field such as
      `X-HTTP-Method-Override`, of which something inside may make one of another method.
    - `paths`: patterns (`"/items/{id}"`, `"/docs/*"`) it applies to, or `path(...)`. All paths it applies to share one
      counter.
    - `ignore_case`: the app routes paths in any case, so `paths` are meant in any case.
    - `name`: stands in the counter's key and in the limit's public name, `name:rate`. By default it says by whom the
      limit counts and where it applies. Limits that differ in how much they admit alone need names of their own on one
      store, and so do those by a function that has no name: two of them do not start.
    - `headers`: which fields tell the caller what is left: `"draft-11"` emits the syntax of
      draft-ietf-httpapi-ratelimit-headers-11, `"draft-next"` the names that its authors have for the next one, `a` and
      `w` instead of `r` and `t`, which may still change; `"x-ratelimit"` the older `X-RateLimit-*` with seconds until
      the reset, `"github"` the same as GitHub has them, with what is used, and the reset in seconds of the Unix epoch;
      several, or `None`.
    - `tell`: of which limits `RateLimit` tells, if there are several: `"all"`, or `"binding"`, the one with least left
      alone. `RateLimit-Policy` names all in any case. Other fields know one limit only, and tell of that.
    - `if_store_fails`: what happens while the store is out of order. `"local"` keeps callers to `limit / workers` in
      each process (see `Keyguard`), `"allow"` lets everybody through, `"refuse"` nobody. A caller refused then gets a
      503 with cause `fault`, never a 429.
    - `settle`: a function that is called when the request is over, after the last byte or when it failed or was left.
      It is given the `Outcome`, and returns the units that the request cost in the end, which may be more or fewer than
      `cost`, the units taken before. If it raises, or returns anything else than a whole number of units, `cost` stays
      charged, and the log tells of it once. The fields that tell what is left are those of the head: they cannot know
      of a cost that comes later.
    - `refund_on`: a short form of it: requests that end in one of these cost nothing, exception classes and statuses,
      such as `(TimeoutError, 502)` or `"5xx"`. Of exceptions of which a framework makes an answer, only the status
      is known.
    - `count`, `failures`: `"failures"` is another one: only answers with 401, 403 or 422 cost anything, or with one of
      `failures`, none of which can be 500 or more. Until it is known how a request ended its units are held; if all
      that is left is held, others of the caller wait in their process, for some seconds, or are told to come again in
      one.

    The charge for a request that a guard further in refuses is given back. If it refuses for the credentials, the
    address or the request's form, a limit by address keeps it: else it would limit no flood of such requests. A limit
    by a function gives it back, for the caller may have named somebody else. A CORS preflight that `APIKeys` has let
    pass is not counted further in.

    Raises `ConfigurationError` for a setting that is wrong.
    """

    counting = "charges"
    unit = ""
    """The name of its units, if they are not requests or whatever the app takes for one."""

    def __init__(
        self,
        *rates: Rates | Callable[[Request], Any],
        by: By | None = None,
        cost: Setting[int] = 1,
        when: Setting[bool] | None = None,
        exempt: Setting[bool] | None = None,
        methods: Iterable[str] | None = None,
        paths: Iterable[str] | OnPaths | None = None,
        ignore_case: bool = False,
        plans: Mapping[str, Rates | Sequence[Rates] | Literal[0] | None] | None = None,
        default: Rates | Sequence[Rates] | Literal[0] | None = None,
        name: str | None = None,
        headers: Profile | Sequence[Profile] | None = "draft-11",
        tell: Tell = "all",
        if_store_fails: FailureMode = "local",
        settle: Settler | None = None,
        refund_on: Refunds | None = None,
        count: Literal["requests", "failures"] = "requests",
        failures: Iterable[int | str] | None = None,
    ) -> None:
        if by is None:
            by = "ip" if plans is None else "subject"
        self.selection = selection = Selection(by, when, exempt, methods, paths, ignore_case, bodies=True)
        self.by, self.when, self.exempt = selection.by, selection.when, selection.exempt
        self.methods, self.paths = selection.methods, selection.paths
        self.cost = settings.checked_cost(cost)
        self.profiles = settings.checked_profiles(headers)
        self.if_store_fails = checked_failure_mode(if_store_fails)
        self.settling = settler_of(settle, refund_on, count, failures)
        self.handlers = self.cost == 0
        self.reads_bodies = isinstance(by, BodyField)
        self.keeps = frozenset({"decisions", "holds"} if self.settling or self.handlers else {"decisions"})
        self.choose: Callable[[Request], Any] | None = None
        self.rules: tuple[settings.Rule, ...] = ()
        self.plans: dict[str, settings.Terms] | None = None
        if plans is None and len(rates) == 1 and callable(rates[0]):
            check_takes("a function that chooses the limit", rates[0], "the request")
            self.choose = rates[0]
        self.named = name is not None
        """Whether it was given a name."""
        self.name, self.counter = names_of(self, name, plans=plans is not None)
        binding = settings.tells_binding(tell)
        self.number = next(_numbers)
        """Tells it from others of its name, in other stacks."""
        self._naming = settings.Naming(
            self.number,
            self.name,
            self.counter,
            self.profiles,
            self.if_store_fails,
            by == "ip",
            binding,
            self.settling,
            self.handlers,
            self.unit,
        )
        if plans is not None:
            if rates:
                raise ConfigurationError("rates or plans, not both: make two guards")
            self.plans, self._default = settings.plans_of(self._naming, plans, default)
        elif default is not None:
            raise ConfigurationError("default is about plans, and there are none")
        else:
            self.rules = () if self.choose is not None else settings.rules_of(self._naming, rates)
            self._default = settings.Terms(self.rules)
        if isinstance(self.cost, int):
            for rule in self.all_rules:
                if self.cost > rule.limit.max_cost:
                    raise ConfigurationError(
                        f"{rule.name}: a cost of {self.cost} is more than it ever admits, {rule.limit.max_cost}"
                    )
        needs = self.plans is not None or by in ("key", "subject")
        self.needs = frozenset({"identity"}) if needs else frozenset()
        # If it is for some requests only, these may be such as have a key.
        for_all = selection.everything and self.when is None and self.exempt is None and by in ("key", "subject")
        self.wants_keys = for_all and bool(self._default.balances)
        self.fixed = self.choose is None and isinstance(self.cost, int) and selection.fixed
        waits = self.settling is not None and self.settling.lines is not None
        self.unshadowed = "requests wait for what others of their caller hold" if waits else ""
        self.prompt = not waits and at_hand(self.functions().values())
        """Whether all functions that have a say can be called in place, as far as is known, and no request waits."""
        self.counters = (counters_of(self, self.plans, self._default),)
        self._unknown_plans: set[str] = set()

    def __repr__(self) -> str:
        rates = [rule.limit.text for rule in self.rules]
        return f"<RateLimit {self.name}: {', '.join(rates) or ('by function' if self.plans is None else 'by plan')}>"

    @property
    def all_rules(self) -> tuple[settings.Rule, ...]:
        """The rules that it was made with, of all plans; none that a function chooses."""
        return self.rules or tuple(rule for terms in self.all_terms for rule in terms.rules)

    @property
    def all_terms(self) -> tuple[settings.Terms, ...]:
        """The same by plan."""
        return (self._default,) if self.plans is None else (*self.plans.values(), self._default)

    @property
    def only_terms(self) -> settings.Terms | None:
        """The rules that count for every request; `None` if that depends on the request, or if there are none."""
        everywhere = self.plans is None and self.selection.everything
        return self._default if everywhere and self._default.rules else None

    def functions(self) -> dict[str, Callable[..., Any]]:
        """Return the settings that are functions of the request."""
        given = {"cost": self.cost, "rates": self.choose}
        return self.selection.functions | {word: value for word, value in given.items() if callable(value)}

    def asynchronous(self) -> dict[str, object]:
        """Return the settings that only an event loop can run."""
        return {word: function for word, function in self.functions().items() if is_async(function)}

    def warn_of_workers(self, workers: int) -> str:
        return f"each of them admits the whole of a limit, so {workers} times as much together"

    def decider(self, store: Any) -> Decide | None:
        return deciding((self,), store, self)

    # -- whether, and what, a request takes ---------------------------------------------------------------

    def _plan(self, request: Request) -> settings.Terms:
        assert self.plans is not None
        plan: Any = identity_for(request, self, "plan").plan
        if plan is None:
            return self._default
        # A look-up may have taken anything from its database, a list say.
        found = self.plans.get(plan) if isinstance(plan, str) else None
        if found is None:
            found = self._default
            told = repr(plan)
            if told not in self._unknown_plans and len(self._unknown_plans) < _TOLD:
                self._unknown_plans.add(told)
                log.warning("%r knows no plan %.200s: callers of it get the default", self, told)
        return found

    def counted(self, request: CarriedRequest) -> settings.Counted | None:
        """Return what counts for a request, if no function has a say in it; `None` for nothing.

        Raises `AmbiguousPath` if that cannot be said.
        """
        selection = self.selection
        if (self.paths is not None or selection.uncounted) and not selection.covers(request):
            return None
        terms = self._default if self.plans is None else self._plan(request)
        if request.settings.overrides.limits:
            terms = overridden(request, self._naming, terms)
        if not terms.rules:
            self._check_included(terms)
            return None
        bucket = selection.bucket(request, self)
        terms.check_caller(bucket)
        return terms, bucket, self.cost

    def _check_included(self, terms: settings.Terms) -> None:
        """Raise `NotCounted` if the caller's plan does not include what the limit is about."""
        if terms.shut:
            raise NotCounted(Cause.PERMISSION, settings.NOT_INCLUDED, "plan", policies=[self.name])

    def take_at_once(self, request: CarriedRequest) -> Take | None:
        counted = self.counted(request)
        return None if counted is None else counted[0].take(*counted[1:])

    async def chosen_take(self, request: CarriedRequest) -> Take | None:
        counted = await asked(self._choosing(request), request)
        return None if counted is None else counted[0].new_take(*counted[1:])

    def chosen_at_once(self, request: CarriedRequest) -> settings.Counted | Literal[Long.LONG] | None:
        """Return the same as `counted`, if functions decide that can be called in place; else `LONG`."""
        if not self.prompt:
            return LONG
        counted = asked_at_once(self._choosing(request), request)
        if counted is LONG:
            self.prompt = False  # it was not known that something has to be awaited, and is from now on
        return counted

    def _choosing(self, request: CarriedRequest) -> Asking[settings.Counted | None]:
        """Ask what counts for a request."""
        if not (yield from self.selection.asking_whether(request)):
            return None
        if self.choose is not None:
            chosen = yield self.choose
            terms = NO_LIMIT if chosen is None else settings.known_terms_of(self._naming, settings.listed(chosen))
        else:
            terms = self._default if self.plans is None else self._plan(request)
        if request.settings.overrides.limits:
            terms = overridden(request, self._naming, terms)
        if not terms.rules and not terms.shut:
            return None
        bucket = yield from self.selection.asking_whose(request, self)
        if bucket is None:
            return None
        self._check_included(terms)
        terms.check_caller(bucket)
        cost = self.cost if isinstance(self.cost, int) else settings.whole_cost((yield self.cost))
        return terms, bucket, cost
