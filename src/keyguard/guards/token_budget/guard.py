"""Budgets of tokens: limits whose units are what a language model reads and writes.

It stands around handlers that pass requests on to a model, and answer as its API does: as that of OpenAI, that of
Anthropic, or any other that tells of `usage`, in one object or as a stream of events.

    TokenBudget("200000/day", by="key")
    TokenBudget(plans={"free": "20000/day", "pro": "2000000/day"}, default="free", mode="hard", clamp=True)

A request reserves before it is served what it may cost, and is charged what it did when it is over: the units that a
handler would hold by `guard.reserve(...)`, and settle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

from keyguard.aside import in_turn, putting_back
from keyguard.checks import is_whole
from keyguard.clock import SECOND
from keyguard.conditions import OnPaths
from keyguard.errors import AmbiguousPath, ConfigurationError
from keyguard.flow import check_takes, is_async, is_blocking
from keyguard.guard import LONG, Decide, Long, Surroundings
from keyguard.guards.rate_limit.guard import Profile, RateLimit, Rates, Tell
from keyguard.guards.rate_limit.headers import describe
from keyguard.guards.rate_limit.outcomes import refuse_limited
from keyguard.guards.rate_limit.overriding import refresh
from keyguard.guards.rate_limit.reserving import LEASE, MAX_AGE, hold_units
from keyguard.guards.rate_limit.rules import RuleDemands, Terms
from keyguard.guards.token_budget.answer import CHARACTERS, Answer
from keyguard.guards.token_budget.bill import Bill
from keyguard.guards.token_budget.call import CHANGED_BODY, LIMITING, Call, read_call
from keyguard.guards.token_budget.recent import Recent
from keyguard.guards.token_budget.usage import MOST
from keyguard.logs import logger
from keyguard.ops import Demand, Store, Taken, tiers_of, traits_of
from keyguard.renewals import keep
from keyguard.request import CarriedRequest, Forward, Lasting, Request
from keyguard.response import APP, Response
from keyguard.selection import By, Setting, asked
from keyguard.uncounted import UNCOUNTED, refuse_uncounted
from keyguard.units import Duration, microseconds
from keyguard.without_store import FailureMode

log = logger("keyguard")

_MOST_BODY = 64 * 1024 * 1024
_DRAINED = 64 * 1024 * 1024
"""Bytes that are read on of the answer to a client that has left."""
_ATTEMPTS = 3
"""How often what is left is asked for, if others take it meanwhile."""


class TokenBudget(RateLimit):
    """Refuse a caller who has used up a budget of tokens, and charge each request what its answer says it has cost.

    - `rates`, `plans`, `default`, `by`, `when`, `exempt`, `methods`, `paths`, `ignore_case`, `name`, `headers`, `tell`,
      `if_store_fails`: as in `RateLimit`, in tokens. By default it counts by key, and `POST` alone.
    - `mode`: `"hard"` reserves the most that a request can cost, so that a budget is never exceeded: the bytes of its
      body, and `max_tokens` (`max_completion_tokens`, `max_output_tokens`) for each answer. One of which that cannot be
      said is refused, with 400, 413 or 415; one without a limit is given that of `output`. `"soft"` reserves what 95
      of 100 requests of the caller have cost lately, so more of them are under way at a time; a budget may be exceeded
      a little.
    - `clamp`: whether a request in hard mode that asks for more than is left gets what is left, by a lower
      `max_tokens`. Else it is refused.
    - `output`: tokens that an answer is reckoned to have, if neither the request nor earlier ones tell.
    - `input_tokens`: a plain function of the parsed body that returns the tokens of its input: as many as it can have
      at most in hard mode, about so many else. Without it a token is a byte in hard mode, and four else. Needed in hard
      mode for input that does not stand in the body, such as images by their URL.
    - `max_body`: so much is read of a request, and kept of an answer to find its usage. A longer request is refused
      with 413 in hard mode, and reckoned by its length in soft mode; of a longer answer the end is read.
    - `include_usage`: whether a stream of OpenAI's kind is asked to tell of its usage, by
      `stream_options.include_usage`. What it tells is held back from a client that has not asked for it.
    - `on_disconnect`: what becomes of an answer whose client leaves. `"drain"` reads it on, so that its cost is known
      exactly; `"abort"` lets the app be stopped, as without this guard: then what was seen of it is charged, or in hard
      mode what was reserved.
    - `drain_for`: for so long at most.

    Units are held until a request is over, and renewed meanwhile. If what others hold is all that stands in the way, a
    refusal says to come again in a second. Only answers from 200 to 299 cost anything, and none from a cache.
    Raises `ConfigurationError` for a setting that is wrong.
    """

    unit = "tokens"

    def __init__(
        self,
        *rates: Rates | Callable[[Request], Any],
        by: By = "key",
        mode: Literal["soft", "hard"] = "soft",
        clamp: bool = False,
        output: int = 4096,
        input_tokens: Callable[[Mapping[str, Any]], int] | None = None,
        max_body: int = 1024 * 1024,
        include_usage: bool = True,
        on_disconnect: Literal["drain", "abort"] = "drain",
        drain_for: Duration = "2 minutes",
        when: Setting[bool] | None = None,
        exempt: Setting[bool] | None = None,
        methods: Iterable[str] | None = ("POST",),
        paths: Iterable[str] | OnPaths | None = None,
        ignore_case: bool = False,
        plans: Mapping[str, Rates | Sequence[Rates] | Literal[0] | None] | None = None,
        default: Rates | Sequence[Rates] | Literal[0] | None = None,
        name: str | None = None,
        headers: Profile | Sequence[Profile] | None = "draft-11",
        tell: Tell = "all",
        if_store_fails: FailureMode = "local",
    ) -> None:
        super().__init__(
            *rates,
            by=by,
            cost=0,
            when=when,
            exempt=exempt,
            methods=methods,
            paths=paths,
            ignore_case=ignore_case,
            plans=plans,
            default=default,
            name=name,
            headers=headers,
            tell=tell,
            if_store_fails=if_store_fails,
        )
        self.reads_bodies = True
        self.unshadowed = "it learns costs from the app's answers, which go past a guard in shadow mode"
        self.hard = _one_of("mode", mode, ("soft", "hard")) == "hard"
        self.clamp, self.include_usage = _flag("clamp", clamp), _flag("include_usage", include_usage)
        if clamp and not self.hard:
            raise ConfigurationError("clamp=True is for mode='hard': in soft mode no request asks for too much")
        if not is_whole(output) or not 1 <= output <= MOST:
            raise ConfigurationError(f"output is a number of tokens, 1 to {MOST}, not {output!r:.80}")
        if not is_whole(max_body) or not 1024 <= max_body <= _MOST_BODY:
            raise ConfigurationError(f"max_body is 1024 to {_MOST_BODY} bytes, not {max_body!r:.80}")
        if input_tokens is not None:
            if not callable(input_tokens) or is_async(input_tokens) or is_blocking(input_tokens):
                raise ConfigurationError(f"input_tokens is a plain function of the parsed body, not {input_tokens!r}")
            check_takes("input_tokens", input_tokens, "the parsed body")
        self.output, self.input_tokens, self.max_body = output, input_tokens, max_body
        self.outlasts = _one_of("on_disconnect", on_disconnect, ("drain", "abort")) == "drain"
        self._lasting = Lasting(microseconds("drain_for", drain_for, min=1, max="1 hour") / SECOND, _DRAINED)
        self._recent = Recent()
        self._store: Store | None = None
        self._near = False
        self._told = False
        """Whether the log has been told of a request that cost more than was reserved in hard mode."""

    def __repr__(self) -> str:
        return super().__repr__().replace("RateLimit", "TokenBudget", 1)

    def attach(self, stack: Surroundings) -> None:
        *_, store = tiers_of(stack.store)  # what is held is held there, whatever stands in front of it
        if self._store is not None and self._store is not store:
            raise ConfigurationError(f"{self!r} stands in two stacks with different stores: make one for each")
        self._store, self._near = store, traits_of(store).near

    def set_aside(self) -> Callable[[], None]:
        put_back = in_turn(super().set_aside(), putting_back(self, "_store", "_near", "_recent"))
        self._store, self._recent = None, Recent()
        return put_back

    def warn_of_workers(self, workers: int) -> str:
        return f"each of them admits the whole of a budget, so {workers} times as much together"

    # -- what a request may cost ----------------------------------------------------------------------------

    def _input(self, call: Call) -> int:
        if self.input_tokens is None or not call.members:
            return call.size if self.hard else -(-call.size // CHARACTERS)
        tokens = self.input_tokens(call.members)
        if not is_whole(tokens) or tokens < 0:
            raise ValueError("input_tokens is to return a number of tokens, 0 or more")
        return tokens

    def _reckoned(self, call: Call, caller: str, sent: int, terms: Terms) -> int:
        """Return the tokens to reserve."""
        most = call.answers * (self.output if call.most is None else call.most)
        if self.hard:
            return min(MOST, sent + most)
        output = self._recent.most(caller, most)
        if call.most is not None:
            output = min(output, most)
        ever = min([rule.limit.max_cost for rule in terms.rules])
        return max(1, min(sent + output, ever))

    def learn(self, caller: str, cost: int) -> None:
        """Take note of the cost of a caller's request, less its input."""
        self._recent.note(caller, cost)

    def overran(self, cost: int, reserved: int) -> None:
        """Tell once of a request that has cost more than it could, in hard mode."""
        if self.hard and not self._told:
            self._told = True
            log.warning(
                "%r has charged %d tokens to a request that reserved %d: its model has not kept to the limit, or its "
                "input did not stand in the body; it is told once",
                self,
                cost,
                reserved,
            )

    # -- a request ------------------------------------------------------------------------------------------

    def decider(self, store: Any) -> Decide | None:
        selection = self.selection

        def decide(request: CarriedRequest) -> Literal[Long.LONG] | None:
            try:
                return LONG if selection.covers(request) else None
            except AmbiguousPath:
                return LONG

        return decide

    async def __call__(self, request: CarriedRequest, forward: Forward) -> Response:
        if request.method == "OPTIONS" and request.state.preflight:
            return await forward(request)  # nothing is known of its caller
        try:
            if request.settings.overrides.is_due():
                await refresh(request)
            counted = await asked(self._choosing(request), request)
            call = None if counted is None else await read_call(request, self.max_body, strict=self.hard)
        except UNCOUNTED as error:
            return refuse_uncounted(request, error)
        if counted is None or call is None:
            return await forward(request)
        terms, caller, _ = counted
        sent = self._input(call)
        held, most = await self._hold(request, terms, caller, call, sent)
        if isinstance(held, Response):
            return held
        bill = None
        if held is not None:
            request.state.decided += (held,)
            kept = None if self._near or self._store is None else keep(self._store, held, MAX_AGE / SECOND)
            bill = Bill(self, request, caller, held, kept, sent)
            request.at_end(bill.pay)
        return await self._serve(request, forward, call, most, bill)

    async def _hold(
        self, request: CarriedRequest, terms: Terms, caller: str, call: Call, sent: int
    ) -> tuple[Taken | Response | None, int | None]:
        """Hold what a request may cost. Return that, or a refusal, and the limit of each answer if it is a new one."""
        units = self._reckoned(call, caller, sent, terms)
        most = self.output if self.hard and call.most is None and call.limit else None
        lease = MAX_AGE if self._near else LEASE
        for _ in range(_ATTEMPTS):
            demands = [Demand(rule.name, rule.prefix + caller, rule.limit, units, lease) for rule in terms.rules]
            held = await hold_units(request, RuleDemands(terms, demands))
            if not isinstance(held, Taken) or not held.refused:
                return held, most
            if not self.clamp or not call.limit or most == 1:
                break
            room = (min([taking[2] for taking in held.takings]) - sent) // call.answers
            most = max(1, room if most is None else min(room, most))  # of one that is refused, the least is
            units = sent + most * call.answers
        assert isinstance(held, Taken)
        return refuse_limited(request, held), None

    async def _serve(
        self, request: CarriedRequest, forward: Forward, call: Call, most: int | None, bill: Bill | None
    ) -> Response:
        changes: dict[str, Any] = {}
        if most is not None:
            said = {name: min(most, call.members[name]) for name in LIMITING if call.members.get(name) is not None}
            changes = said or {call.limit: most}
        asks = bill is not None and self.include_usage and call.counts and call.streams and not call.asks_for_usage
        if asks:
            options = call.members.get("stream_options")
            changes["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}
        if bill is not None and self.outlasts:
            request.lasting = self._lasting
        with request.changed(self._with_body(request, call, changes), whole_body=True):
            response = await forward(request)
        if bill is not None:
            self._read(request, response, bill, hides=asks)
        return response

    def _with_body(self, request: CarriedRequest, call: Call, changes: Mapping[str, Any]) -> dict[str, str | None]:
        """Give the app the body with other members. Return the fields that change with it."""
        if not changes:
            return {}
        body = call.with_members(changes)
        request.ahead.replace(body)
        return {**dict.fromkeys(CHANGED_BODY), "content-length": str(len(body))}

    def _read(self, request: CarriedRequest, response: Response, bill: Bill, *, hides: bool) -> None:
        """Have an answer read on its way, if it may cost anything, and tell what is left."""
        bill.status, state = response.status, request.state
        if response.status != 429 and (response.status < 400 or state.refusal is None):
            if state.caches:
                state.note_own_limits(response.headers)
            describe(response.headers, bill.taken)
        if response.status >= 300 or state.cached or response.body is not APP:
            request.lasting = None
            return
        bill.answer = answer = Answer(response.headers, hides=hides, most=self.max_body)
        if hides:
            response.headers.remove("Content-Length")
        response.filter(answer)


def _one_of(word: str, value: Any, words: tuple[str, str]) -> str:
    if value not in words:
        raise ConfigurationError(f"{word} is {words[0]!r} or {words[1]!r}, not {value!r:.80}")
    return str(value)


def _flag(word: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{word} is True or False, not {value!r:.80}")
    return value
