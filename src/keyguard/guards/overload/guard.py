"""The guard against overload. It stands around all that costs something, outermost or right behind an address filter.

A request is in flight from its admission to the head of its response, and that is the latency that counts. The body is
left out: a stream may last for hours and cost nothing, a websocket is open for as long as its client likes, and how
long a download takes is up to the client. Whatever an app must do before it can answer lies before the head.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from threading import Lock
from typing import Any

from keyguard.aside import putting_back
from keyguard.checks import is_token, is_whole
from keyguard.clock import SECOND, monotonic, wall_clock
from keyguard.conditions import OnPaths, on_paths
from keyguard.errors import ConfigurationError
from keyguard.guard import Decide, Guard, Mark, Surroundings
from keyguard.guards.overload.criticality import SHARES, Classes, Criticalities
from keyguard.guards.overload.limit import LOWEST, AdaptiveLimit
from keyguard.guards.overload.queue_wait import waited
from keyguard.guards.overload.stats import OverloadStats
from keyguard.problem import refuse_busy
from keyguard.process.loop_lag import LoopLag
from keyguard.request import Forward, Request
from keyguard.response import Headers, Response
from keyguard.units import Duration, microseconds, seconds

HEALTH = ("/health", "/healthz", "/livez", "/readyz")

_new = object.__new__


class Admitted(Mark):
    """A request in flight. It is counted out once, whatever comes first."""

    __slots__ = ("began", "clock", "limit", "open")

    def __init__(self, limit: AdaptiveLimit, clock: Callable[[], float], began: float) -> None:
        self.limit = limit
        self.clock = clock
        self.began = began
        self.open = True

    def head(self, request: Request, status: int, headers: Headers) -> None:
        # Refusals of guards further in, cached answers and errors come quickly, and say nothing of the app.
        if self.open:
            self.open = False
            answered = request.reached_app and status < 500 and request.state.refusal is None
            self.limit.end(self.began, self.clock(), answered=answered)

    def failed(self, request: Request, error: BaseException) -> None:
        self.unanswered()

    def unanswered(self) -> None:
        if self.open:
            self.open = False
            self.limit.end(self.began, self.began, answered=False)


class Overload(Guard):
    """Refuse requests with 503 while this process has more to do than it can do, the least critical first.

        Keyguard(Overload(criticality={"/checkout/*": "critical_plus", "/reports/*": "sheddable"}), APIKeys(), ...)

    A request counts as in flight until its response begins. How many may be, is learnt: the limit grows one by one
    while requests are refused and answers begin in time, and is cut if they do not. If fewer requests do not make the
    app quicker, it is just slow, and the limit goes back.

    - `latency`: the time within which nine of ten answers should begin: requests may wait for as long. By default they
      may wait until an answer takes one and a half times as long as usual, which is learnt. That is the bound, too, if
      the app cannot keep to yours though nothing waits.
    - `min_in_flight`, `max_in_flight`: the limit is never below the one (4 by default) or above the other. Under WSGI
      requests wait before they get a thread, and nothing is seen of them: of `n` threads give `max_in_flight=n - 1`, so
      that one is always free to refuse; or name `start_header`.
    - `criticality`: `"critical_plus"`, `"critical"` (the default), `"sheddable_plus"` or `"sheddable"`. One for all, a
      mapping of path patterns (the first that matches counts), or a plain function of the request, which may read
      `request.identity` behind `APIKeys`; `None` from it means the default. The classes are admitted up to 1, 0.9, 0.7
      and 0.5 of each bound.
    - `health`: patterns of paths that are never refused.
    - `max_lag`: by how much the event loop may be late, twice in a row, before requests are refused. It is measured in
      event loops of asyncio; trio has no such timers.
    - `start_header`: a field in which your proxy tells when it got the request, such as `"X-Request-Start"`, as nginx
      (`t=${msec}`), Apache or Heroku writes it. It has to overwrite what clients send.
    - `max_wait`: how long a request may have waited by then.
    - `retry_after`: the longest `Retry-After`. Each is drawn evenly from whole seconds up to it, so that callers do not
      come back all at once.
    - `random`: a function that returns a number from 0 to below 1, for tests.
    - `name`: what it is called in the log.

    No key is charged: limits further out give back what they took. Each process has a limit of its own.

    Raises `ConfigurationError` for a setting that is wrong.
    """

    keeps: frozenset[str] = frozenset()
    unshadowed = "it learns how much the app can do by what it holds back"

    def __init__(
        self,
        *,
        latency: Duration | None = None,
        min_in_flight: int | None = None,
        max_in_flight: int = 1000,
        criticality: Criticalities = "critical",
        health: Iterable[str] | OnPaths = HEALTH,
        max_lag: Duration = "250 ms",
        start_header: str | None = None,
        max_wait: Duration = "500 ms",
        retry_after: Duration = "5 seconds",
        random: Callable[[], float] = random.random,
        name: str = "overload",
    ) -> None:
        self.name = name
        floor, ceiling = _checked_bounds(min_in_flight, max_in_flight)
        objective = None if latency is None else microseconds("latency", latency, min="1 ms", max="1 hour") / SECOND
        self.classes = Classes(criticality)
        self.health = on_paths("health", health or None, False)
        self._max_lag = microseconds("max_lag", max_lag, min="10 ms", max="1 minute") / SECOND
        if start_header is not None and not (isinstance(start_header, str) and is_token(start_header)):
            raise ConfigurationError(f"start_header is the name of a header field, not {start_header!r:.80}")
        if start_header is not None and "_" in start_header:
            raise ConfigurationError(f"start_header has an underscore, and such fields are taken off: {start_header!r}")
        self._start_header = None if start_header is None else start_header.lower()
        self._always = self._start_header is not None or self.classes.function is not None
        """Whether each request is weighed. Else those are for which there may be no room."""
        self._max_wait = microseconds("max_wait", max_wait, min="10 ms", max="1 hour")
        self._longest = seconds("retry_after", retry_after, min="1 second", max="1 hour")
        if not callable(random):
            raise ConfigurationError(f"random is a function that returns a number, not {random!r:.80}")
        self._random = random
        self.limit = AdaptiveLimit(floor, ceiling, objective)
        self._clock: Callable[[], float] = monotonic
        self._lag = LoopLag(self._now)
        self._shed = dict.fromkeys(SHARES, 0)
        self._counting = Lock()

    def __repr__(self) -> str:
        return f"<Overload {self.name}>"

    def functions(self) -> Mapping[str, Callable[..., Any]]:
        return {} if self.classes.function is None else {"criticality": self.classes.function}

    def attach(self, stack: Surroundings) -> None:
        clock = stack.clock
        # The system's time may be set back; a clock that was given is one for tests.
        self._clock = monotonic if clock is wall_clock else lambda: clock() / SECOND

    def set_aside(self) -> Callable[[], None]:
        put_back = putting_back(self, "limit", "_lag", "_shed", "_clock")
        self.limit = AdaptiveLimit(self.limit.floor, self.limit.ceiling, self.limit.objective)
        self._lag = LoopLag(self._now)
        self._shed = dict.fromkeys(SHARES, 0)
        return put_back

    def after_fork(self) -> None:
        self.limit.renew()
        self._lag.renew()
        self._counting = Lock()

    def stats(self) -> OverloadStats:
        """Return how busy this process is, and what it has refused since the start."""
        limit = self.limit
        shed = {name: count for name, count in self._shed.items() if count}
        return OverloadStats(int(limit.room(1.0)), limit.in_flight, limit.latency, limit.usual, self._lag.seconds, shed)

    def decider(self, store: Any) -> Decide | None:
        return self._decide

    async def __call__(self, request: Request, forward: Forward) -> Response:
        begun = self._decide(request)
        if begun is None:
            return await forward(request)
        if isinstance(begun, Response):
            return begun
        try:
            response = await forward(request)
            begun.head(request, response.status, response.headers)
        finally:
            begun.unanswered()
        return response

    def _now(self) -> float:
        return self._clock()

    def _decide(self, request: Request) -> Response | Admitted | None:
        now = self._clock()
        limit = self.limit
        late = self._lag.note(now)
        if late or self._always or not limit.begin(LOWEST):
            return self._weigh(request, now, late)
        admitted = _new(Admitted)
        admitted.limit, admitted.clock, admitted.began, admitted.open = limit, self._clock, now, True
        return admitted

    def _weigh(self, request: Request, now: float, late: float) -> Response | Admitted | None:
        """Decide by the class of the request."""
        name = self.classes.of(request)
        share = SHARES[name]
        wait = 0
        if self._start_header is not None:
            wait = waited(request.header(self._start_header), request.clock())
        reason = ""
        if late > self._max_lag * share:
            reason = "event-loop-late"
        elif wait > self._max_wait * share:
            reason = "waited-too-long"
        elif not self.limit.press(share):
            reason = "too-many-in-flight"
        else:
            return Admitted(self.limit, self._clock, now)
        if self.health is not None and self.health.surely(request):
            return None
        with self._counting:
            self._shed[name] += 1
        return refuse_busy(request, reason=reason, seconds=1 + int(self._random() * self._longest))


def _checked_bounds(given: int | None, ceiling: int) -> tuple[int, int]:
    floor = given
    if floor is None:
        floor = min(4, ceiling) if is_whole(ceiling) and ceiling > 0 else 4
    for word, number in (("min_in_flight", floor), ("max_in_flight", ceiling)):
        if not is_whole(number) or not 1 <= number <= 1_000_000:
            raise ConfigurationError(f"{word} is a whole number from 1 to 1000000, not {number!r:.80}")
    if floor > ceiling:
        raise ConfigurationError(f"min_in_flight is at most max_in_flight, and {floor} is more than {ceiling}")
    return floor, ceiling
