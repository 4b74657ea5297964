"""The guard `Ban`. A strike is counted when a response of a kind that counts goes out; a ban begins at one too many.

    Keyguard(Ban(after="20/minute", of=(401, 403), for_="10 minutes", growing=True), APIKeys(), ...)

Rules:
- It stands outside of what it judges: right after `IPFilter`, and outside of `APIKeys`, whose 401 it is to hear of.
- Whether a caller is banned is a question to the store that costs nothing; a strike is settled when the response has
  gone, so no response waits for it. In a store in this process both happen on the spot.
- A strike is a caller's own doing. Refusals for a fault, an overload or an upstream that is used up are none, whatever
  their status; nor is a request to which there was no response, since its client left or the app failed; nor a CORS
  preflight without credentials, which browsers send by themselves. A response is one strike, however many reasons there
  are.
- The response that brings the last strike goes out as it is. The refusals of a ban are not strikes: it would never end.
- Some are never banned: a trusted proxy, who would take its callers along; callers of whom no address is known, who
  share one bucket; and the networks of `exempt`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from keyguard import counter_names
from keyguard.buckets import bucket_text
from keyguard.chain import within
from keyguard.clock import SECOND
from keyguard.errors import StoreError
from keyguard.flow import call, is_async
from keyguard.guard import Decide, Guard, Surroundings
from keyguard.guards.bans import settings
from keyguard.guards.bans.at_once import AskBan, deciding, named
from keyguard.keys.credentials import Sources
from keyguard.ops import Demand, Take, Taken
from keyguard.problem import BANNED, refuse_for
from keyguard.rates.strikes import Strikes
from keyguard.refusal import Cause
from keyguard.request import CarriedRequest, Forward
from keyguard.response import Response
from keyguard.selection import By, at_hand, checked_by, identity_for
from keyguard.units import Duration, rfc3339

POOLS = "rl:ban:"
"""The beginning of the names of the pools in which strikes and bans are kept, before the guard's name."""


_KEPT = 4096  # operations that are ready for the next request of the same caller


class Rule(NamedTuple):
    """The limit of a guard, as stores know it."""

    prefix: str
    limit: Strikes


class Ban(Guard):
    """Refuse a caller for a while who was refused, or failed, more often than `after` allows.

    - `after`: a rate such as `"20/minute"`: the strike that is one more begins a ban.
    - `of`: statuses from 400 to 599 and causes, such as `Cause.CREDENTIALS`. A response of one of these, of the app or
      of a guard further in, is a strike; a status counts whoever answers so, a cause if it is a refusal of keyguard's.
    - `for_`, `growing`, `max_for`: how long a ban lasts. With `growing`, one that begins within `max_for` after the end
      of the last one is twice as long as that, up to `max_for`.
    - `by`: who is banned. `"ip"` the client's address (IPv6 by /64), `"key"` the API key, `"subject"` whoever owns the
      key; callers without a key by their address. Or a function of the request that returns text, a number, a tuple of
      these, or `None` for nobody. By key, it must stand inside of `APIKeys`.
    - `exempt`: networks whose callers are never banned, and whose failures are not counted.
    - `name`: stands in the key of what is counted, and in the refusal.
    - `if_store_fails`: what happens while the store is out of order. `"allow"` lets everybody through, `"refuse"`
      nobody, with a 503 and the cause `fault`.

    A banned caller gets a 429 with the cause `address`, and a `Retry-After` at which it is admitted; one who is banned
    by something else than the address, with the cause `permission`. `keyguard bans` lists and lifts bans.

    Raises `ConfigurationError` for a setting that is wrong.
    """

    counting = "checks"

    def __init__(
        self,
        *,
        after: str = "20/minute",
        of: Iterable[int | Cause] | int | Cause = (401, 403),
        for_: Duration = "10 minutes",
        growing: bool = False,
        max_for: Duration = "24 hours",
        by: By = "ip",
        exempt: Iterable[str] = (),
        name: str | None = None,
        if_store_fails: Literal["allow", "refuse"] = "allow",
    ) -> None:
        self.limit = settings.strikes_of(after, for_, growing, max_for)
        self.statuses, self.causes = settings.split(of)
        self.by: Any = checked_by(by)
        self.exempt = settings.checked_exempt(exempt)
        self.if_store_fails = settings.checked_failure_mode(if_store_fails)
        self.name, self.pool_name = self._names(name)
        """Its public name, and its name in the keys of what it counts."""
        self.rule = Rule(f"{POOLS}{self.pool_name}:{self.limit.code}|", self.limit)
        self.policy = f"{self.name}:{self.limit.text}"
        """The public name of its limit: in the refusal, and in the log."""
        self.filters_addresses = self.by == "ip"  # or a cache that stands outside would answer who is banned
        self.judges_credentials = self.by == "ip" and (401 in self.statuses or Cause.CREDENTIALS in self.causes)
        self.needs = frozenset({"identity"}) if self.by in ("key", "subject") else frozenset()
        self.counters = (
            counter_names.Counters(
                self.pool_name,
                (self.limit.numbers(0), self.statuses, self.causes, self.by, self.exempt.texts),
                limits=[self.limit],
                rules=[self.policy],
                keys=[self.rule.prefix],
                named=name is not None,
                functions=self.functions().values(),
            ),
        )
        self.told: dict[str, int] = {}
        self._ready: dict[str, Take] = {}
        self._sources: list[Sources] = []

    def __repr__(self) -> str:
        return f"<Ban {self.name}: after {self.limit.text}>"

    def _names(self, given: str | None) -> tuple[str, str]:
        if given is not None:
            name = settings.checked_name(given)
            return name, name
        if self.by == "ip":
            return "ban", "ban"
        return (
            f"ban {counter_names.public_name(self.by, (), ())}",
            f"ban {counter_names.counter_name(self.by, (), (), {}, 1, False)}",
        )

    # -- what the stack is told -----------------------------------------------------------------------------

    def functions(self) -> Mapping[str, Callable[..., Any]]:
        """Return the settings that are functions of the request."""
        return {"by": self.by} if callable(self.by) else {}

    def asynchronous(self) -> Mapping[str, object]:
        """Return the settings that only an event loop can run."""
        return {word: function for word, function in self.functions().items() if is_async(function)}

    def attach(self, stack: Surroundings) -> None:
        """Take note of the places in which credentials stand: a preflight has none."""
        self.add_sources(stack.sources)

    def add_sources(self, sources: Sequence[Sources]) -> None:
        """Take note of the places in which layers further in look for credentials."""
        self._sources += [each for each in sources if each not in self._sources]

    def warn_of_workers(self, workers: int) -> str:
        return "each of them counts strikes for itself, and bans for itself"

    def decider(self, store: Any) -> Decide | None:
        return deciding(self, store) if at_hand(self.functions().values()) else None

    # -- a request ------------------------------------------------------------------------------------------

    async def __call__(self, request: CarriedRequest, forward: Forward) -> Response:
        by = self.by
        if isinstance(by, str):
            bucket = self.bucket(request)
        else:
            bucket = "" if request.state.preflight else named(await call(by, request))
        if not bucket or self.spares(request, bucket):
            return await forward(request)
        ask = AskBan(self, bucket)
        try:
            taken: Taken = await ask.op
        except StoreError as error:
            return await ask.failed(error, request, forward)
        answer = ask.answered(taken, request)
        return answer if isinstance(answer, Response) else await within((answer,), request, forward)

    def bucket(self, request: CarriedRequest) -> str:
        """Return who is to be banned, if no function has a say in it; empty for nobody."""
        if self.by != "ip":
            if request.state.preflight:
                return ""  # nothing is known of its caller
            identity = identity_for(request, self, self.by)
            if not identity.anonymous:
                return bucket_text(identity.key_id if self.by == "key" else identity.subject)
        client = request.client
        if client is None:
            return ""
        return client.bucket if self.by == "ip" else "@" + client.bucket

    def spares(self, request: CarriedRequest, bucket: str) -> bool:
        """Tell whether the caller is one who is never banned."""
        client = request.client
        if client is None:
            return False
        return client in self.exempt or (self._by_address(bucket) and request.settings.source.trusts(client))

    def _by_address(self, bucket: str) -> bool:
        return self.by == "ip" or bucket.startswith("@")

    def take(self, bucket: str) -> Take:
        """Return the operation that tells whether a caller is banned. It charges nothing."""
        take = self._ready.get(bucket)
        if take is None:
            if len(self._ready) >= _KEPT:
                self._ready.clear()
            take = self._ready[bucket] = Take([Demand(self.policy, self.rule.prefix + bucket, self.limit, 0)])
        return take

    def refuse(self, request: CarriedRequest, bucket: str, taken: Taken) -> Response:
        """Answer a banned caller. Its refusal leaves no mark, so it is not a strike."""
        ends = rfc3339((taken.at + taken.wait + SECOND - 1) // SECOND)
        by_address = self._by_address(bucket)
        whose = "from this address" if by_address else "of this caller"
        return refuse_for(
            request,
            Cause.ADDRESS if by_address else Cause.PERMISSION,
            f"Too many requests {whose} were refused, or failed. All of them are refused until {ends}.",
            reason=BANNED,
            status=429,
            wait=taken.wait,
            at=taken.at,
            policies=(self.policy,),
        )

    def is_strike(self, request: CarriedRequest, status: int) -> bool:
        """Tell whether a response is a strike against its caller."""
        refusal = request.state.refusal
        if refusal is not None and refusal.cause in settings.BLAMELESS:
            return False
        if status not in self.statuses and (refusal is None or refusal.cause not in self.causes):
            return False
        return not self._is_preflight(request)

    def _is_preflight(self, request: CarriedRequest) -> bool:
        """Tell whether a browser asks by itself: with credentials it would be a way to try them uncounted."""
        if request.method != "OPTIONS" or not request.preflight:
            return False
        sent = request.header("authorization") or request.header("cookie")
        return not sent and not any(sources.read(request) for sources in self._sources)
