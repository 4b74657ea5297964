"""One request's way to the app and back: with whom it waits, what it asks, and what becomes of the answer."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import TYPE_CHECKING

from keyguard.errors import StoreError
from keyguard.flow import Signal, Wait
from keyguard.guards.cache.answers import NO_CONDITIONS, Conditions, answer
from keyguard.guards.cache.entry import Entry, Fields, first, without
from keyguard.guards.cache.flights import APART, LANDED, LEFT, Flight
from keyguard.guards.cache.keys import Key, Target, digest, flight_key, places_of, variance_of
from keyguard.guards.cache.markers import marking
from keyguard.guards.cache.policy import (
    Asked,
    Use,
    Verdict,
    freshened,
    has_tags,
    make_entry,
    may_serve_on_error,
    may_store,
    part_of,
    use,
    vary_of,
)
from keyguard.guards.cache.reports import Explanation
from keyguard.guards.cache.shared import APART as OTHERS_APART
from keyguard.guards.cache.shared import new_token
from keyguard.request import Forward, Request
from keyguard.response import APP, Response, Tee

if TYPE_CHECKING:
    from keyguard.guards.cache.guard import ResponseCache

log = logging.getLogger("keyguard")

SECOND = 1_000_000

_APART_FOR = 60 * SECOND
_POLL = 0.015  # seconds between two looks for what another process asks for
_ERRORS = frozenset({500, 502, 503, 504})
_BODILESS = frozenset({204, 205})
_OURS = ("ratelimit", "x-ratelimit", "retry-after")


async def asked_app(request: Request, forward: Forward) -> Response:
    """Call the app, and set what its route's markers say."""
    marks = marking()
    response = await forward(request)
    marks.apply(response.headers)
    return response


class Errand:
    """A miss or a validation, for one request."""

    def __init__(
        self,
        cache: ResponseCache,
        request: Request,
        forward: Forward,
        target: Target,
        asked: Asked,
        conditions: Conditions,
        entry: Entry | None,
        since: int,
        reason: str,
    ) -> None:
        self.cache = cache
        self.request = request
        self.forward = forward
        self.target = target
        self.asked = asked
        self.conditions = conditions
        self.entry = entry
        """What is stored and may not be used without asking the app; `None` for nothing."""
        self.since = since
        self.reason = reason
        """Why the app is asked, in the words of RFC 9211, section 2.2."""
        self.key: Key = ()
        self.flight: Flight | None = None
        self.token: bytes | None = None
        self.asked_at = 0

    # -- who asks -------------------------------------------------------------------------------------------

    async def run(self) -> Response:
        """The response: another request's, if one asks for the same already, else the app's."""
        validates = self._validators()
        waits = (
            self.cache.coalesce > 0
            and self.asked.method == "GET"
            and self.asked.range is None
            and self.reason != "request"
            and (bool(validates) or self.conditions is NO_CONDITIONS)
        )
        if waits:
            self.key = self._flight_key()
            if not self.cache.flights.is_apart(self.key, self.request.now()):
                response = await self._join()
                if response is not None:
                    return response
        try:
            if self.flight is not None and self.cache.shared is not None and self.since:
                response = await self._lease()
                if response is not None:
                    return response
            return await self._ask(validates)
        except BaseException:
            self._end(LEFT)
            raise

    async def refresh(self) -> Response:
        """The same in the background: not where somebody asks already. The response is for nobody."""
        self.key = self._flight_key()
        flight, leads = self.cache.flights.join(self.key, places_of(self.target))
        nothing = Response(204)
        if not leads:
            return nothing
        self._lead(flight)
        try:
            if self.cache.shared is not None and self.since:
                self.token = new_token()
                try:
                    if await self._try_lease() is not None:
                        self.token = None
                        self._end(LEFT)
                        return nothing
                except StoreError:
                    self.token = None
            return await self._ask(self._validators())
        except BaseException:
            self._end(LEFT)
            raise
        finally:
            assert self.entry is not None
            self.entry.refreshing_since = 0

    async def _join(self) -> Response | None:
        """Another request's answer, or `None` where this one has to ask: as the leader of a flight, or alone."""
        cache, request = self.cache, self.request
        deadline = request.now() + round(cache.coalesce * SECOND)
        while True:
            flight, leads = cache.flights.join(self.key, places_of(self.target))
            if leads:
                self._lead(flight)
                return None
            left = (deadline - request.now()) / SECOND
            if left <= 0 or not await Wait(flight.signal, 0, left):
                return None
            if flight.state == APART:
                return None
            if flight.state == LANDED and flight.entry is not None:
                return self._collapsed(flight.entry)

    def _collapsed(self, entry: Entry) -> Response | None:
        """The answer that another request brought, if it suits this one."""
        request = self.request
        if entry.variance != variance_of(request, [name for name, _ in entry.variance]):
            return None
        if self.asked.credentials and not (entry.open_to_credentials or self.cache.by):
            return None
        now = request.now()
        if use(self.asked, entry, now, self.cache.settings) not in (Use.FRESH, Use.REFRESH):
            return None
        status = f"{self.cache.name}; hit; ttl={entry.ttl(now)}; collapsed"
        response = answer(request, entry, self.conditions, now, status)
        if response is not None:
            self.cache.reports.counts.hits += 1
            self.cache.reports.counts.collapsed += 1
        return response

    def _lead(self, flight: Flight) -> None:
        self.flight = flight
        self.request.at_end(self._over)  # whatever becomes of it, nobody waits for ever

    def _over(self) -> Awaitable[None] | None:
        self._end(LEFT)
        return self._release(apart=False) if self.token is not None else None

    def _end(self, state: int, entry: Entry | None = None) -> None:
        if self.flight is not None:
            self.cache.flights.end(self.key, self.flight, state, entry)

    async def _lease(self) -> Response | None:
        """Be the one process that asks, or wait for the one that does. `None`: this one asks."""
        cache, request = self.cache, self.request
        shared = cache.shared
        assert shared is not None
        self.token = new_token()
        deadline = request.now() + round(cache.coalesce * SECOND)
        never = Signal()
        try:
            while True:
                holder = await self._try_lease()
                if holder is None:
                    return None
                if holder == OTHERS_APART or request.now() >= deadline:
                    break
                await Wait(never, 0, _POLL)
                found = await shared.look(request, self.target)
                entry = next((entry for entry in found.entries if entry.part is None), None)
                if entry is not None and (self.entry is None or entry.received > self.entry.received):
                    response = self._collapsed(entry)
                    if response is not None:
                        cache.hold(self.target, entry, request.now())
                        self.token = None
                        self._end(LANDED, entry)
                        return response
        except StoreError:
            cache.reports.counts.errors += 1
        self.token = None  # another process has it, or nobody: this one asks all the same
        return None

    async def _try_lease(self) -> bytes | None:
        shared = self.cache.shared
        assert shared is not None
        assert self.token is not None
        return await shared.lease(self.target, digest(self.key), self.token, self.cache.coalesce)

    async def _release(self, *, apart: bool) -> None:
        token, self.token = self.token, None
        if token is not None and self.cache.shared is not None:
            try:
                await self.cache.shared.release(self.target, digest(self.key), token, apart=apart)
            except StoreError:
                self.cache.reports.counts.errors += 1  # it lapses

    def _flight_key(self) -> Key:
        entry, cache = self.entry, self.cache
        names = cache.varies_by(self.target) if entry is None else [name for name, _ in entry.variance]
        credentials = cache.credentials_of(self.request) if self.asked.credentials else []
        return flight_key(self.target, credentials, variance_of(self.request, names))

    # -- what is asked ----------------------------------------------------------------------------------------

    def _validators(self) -> dict[str, str | None]:
        """The conditions to ask the app with, in the place of the client's own (RFC 9111, section 4.3.1)."""
        entry = self.entry
        if entry is None or entry.part is not None or self.asked.method != "GET":
            return {}
        if entry.etag is None and entry.last_modified is None:
            return {}
        return {
            "if-none-match": entry.etag,
            "if-modified-since": entry.last_modified,
            "range": None,
            "if-range": None,
        }

    async def _ask(self, validators: dict[str, str | None]) -> Response:
        """Ask the app, and make of its answer what the rules say."""
        request = self.request
        self.cache.reports.counts.misses += 1
        self.asked_at = request.now()
        try:
            with request.changed(validators, whole_body=True):
                response = await asked_app(request, self.forward)
        except Exception:
            self._end(APART)
            if request.reached_app:
                stale = self._instead_of_error("the app failed")
                if stale is not None:
                    log.warning("the app failed; a stale response was served", exc_info=True)
                    return stale
            raise
        if request.findings.refusal is not None:
            self._end(APART)
            response.headers.add("Cache-Status", f"{self.cache.name}; fwd={self.reason}")
            return response
        if response.status == 304 and validators:
            return await self._validated(response)
        if response.status in _ERRORS:
            stale = self._instead_of_error(f"the app answered {response.status}", response.status)
            if stale is not None:
                self._end(APART)
                return stale
        if self.asked.method == "HEAD":
            return await self._headed(response)
        return await self.store(response, self.asked_at)

    def _instead_of_error(self, what: str, status: int | None = None) -> Response | None:
        entry, request = self.entry, self.request
        now = request.now()
        if entry is None or not may_serve_on_error(entry, now):
            return None
        text = f"{self.cache.name}; hit; ttl={entry.ttl(now)}; fwd={self.reason}"
        if status is not None:
            text += f"; fwd-status={status}"
        response = answer(request, entry, self.conditions, now, text)
        if response is not None:
            self.cache.reports.counts.stale += 1
            self._note(Explanation(False, f"{what}; the stale entry was served", "RFC 5861, section 4"))
        return response

    # -- what comes back --------------------------------------------------------------------------------------

    async def _validated(self, response: Response) -> Response:
        """The app says that the entry is still right (RFC 9111, section 4.3.4)."""
        cache, request, entry = self.cache, self.request, self.entry
        assert entry is not None
        now = request.now()
        update: Fields = tuple(response.headers)
        status = f"{cache.name}; fwd={self.reason}; fwd-status=304"
        tag = first(update, "etag")
        fresh = freshened(entry, update, cache.settings, asked_at=self.asked_at, received=now)
        if tag is not None and entry.etag is not None and tag.removeprefix("W/") != entry.etag.removeprefix("W/"):
            verdict = Verdict(False, "a 304 named another entity tag than the entry's", "RFC 9111, section 4.3.4")
            fresh = entry
        else:
            verdict = may_store(self.asked._replace(method="GET"), entry.status, fresh.fields, cache.settings, now)
        cache.reports.counts.validated += 1
        outdated = self.flight is not None and self.flight.outdated
        if verdict.stored and not outdated:
            fresh.since = self.since
            await cache.keep(self.target, fresh, now)
            status += "; stored"
            self._end(LANDED, fresh)
        else:
            await cache.let_go(self.target, entry)
            self._end(APART)
        await self._release(apart=not verdict.stored)
        self._note(_explained(verdict, fresh))
        answered = answer(request, fresh, self.conditions, now, status)
        if answered is None:
            answered = answer(request, fresh, NO_CONDITIONS, now, status)
        assert answered is not None
        for name, value in update:  # these are of this answer, not of the entry
            name = name.lower()
            if name.startswith(_OURS) or (name == "set-cookie" and not cache.settings.set_cookie):
                answered.headers.add(name, value)
        return answered

    async def _headed(self, response: Response) -> Response:
        """A HEAD that reached the app freshens what a GET has stored, or drops it (RFC 9111, section 4.3.5)."""
        cache, entry, now = self.cache, self.entry, self.request.now()
        fields: Fields = tuple(response.headers)
        if entry is not None and entry.status == 200 and entry.part is None and response.status == 200:
            length = first(fields, "content-length")
            same = (
                (first(fields, "etag") or entry.etag) == entry.etag
                and (first(fields, "last-modified") or entry.last_modified) == entry.last_modified
                and (length is None or length == str(len(entry.body)))
            )
            fresh = freshened(entry, fields, cache.settings, asked_at=self.asked_at, received=now)
            fresh.since = self.since
            if same and may_store(self.asked._replace(method="GET"), 200, fresh.fields, cache.settings, now).stored:
                await cache.keep(self.target, fresh, now)
            else:
                await cache.let_go(self.target, entry)
        elif entry is not None and response.status in (404, 410):
            await cache.let_go(self.target, entry)
        self._end(LEFT)
        _strip_tags(response)
        response.headers.add("Cache-Status", f"{cache.name}; fwd={self.reason}")
        return response

    async def store(self, response: Response, asked_at: int) -> Response:
        """Store the app's response, if that is allowed, while it goes on to the client."""
        cache, request = self.cache, self.request
        now = request.now()
        fields: Fields = tuple(response.headers)
        asked = self.asked
        if not asked.credentials and cache.has_credentials(request):
            asked = asked._replace(credentials=True)  # found out by a guard further in
        verdict = may_store(asked, response.status, fields, cache.settings, now)
        length = _content_length(fields)
        if verdict.stored and length is not None and length > cache.max_entry_bytes:
            verdict = Verdict(False, f"it is larger than an entry may be, {cache.max_entry_bytes} bytes", "")
        if not verdict.stored:
            await self._not_stored(response, verdict)
            return response
        entry = make_entry(response.status, fields, cache.settings, asked_at=asked_at, received=now)
        names = sorted({*(vary_of(fields) or ()), *cache.settings.vary})
        if cache.settings.vary:
            response.headers.set("Vary", ", ".join(names))
            entry.fields = (*without(entry.fields, frozenset({"vary"})), ("Vary", ", ".join(names)))
        entry.variance = variance_of(request, names)
        entry.since = self.since
        entry.range_text = asked.range
        _strip_tags(response)
        response.headers.add("Cache-Status", f"{cache.name}; fwd={self.reason}; stored")

        async def done(body: bytes) -> None:
            entry.body = body
            if entry.status == 206:
                entry.part = part_of(fields, body)
            if self.flight is not None and self.flight.outdated:
                self._end(LEFT)
                self._note(Explanation(False, "it was purged while it was on its way", "RFC 9111, section 4.4"))
                return
            await cache.keep(self.target, entry, now)
            cache.flights.rejoin(self.key)
            self._end(LANDED, entry)
            self._note(_explained(verdict, entry))

        def cut(why: str) -> None:
            cache.shelf.drop(self.target.key, entry)  # where it was thought to be whole
            cache.reports.counts.not_stored += 1
            self._note(Explanation(False, f"its body was not kept: {why}", "RFC 9111, section 3.3"))
            self._end(LEFT)

        if response.body is not APP:
            await done(response.body)
        elif response.status in _BODILESS:
            await done(b"")
        else:
            response.tee(Tee(cache.max_entry_bytes, done, cut, length=length))
        return response

    async def _not_stored(self, response: Response, verdict: Verdict) -> None:
        cache = self.cache
        cache.reports.counts.not_stored += 1
        if self.entry is not None and response.status < 500 and response.status != 304 and self.asked.range is None:
            await cache.let_go(self.target, self.entry)  # it has been superseded
        if self.key:
            cache.flights.set_apart(self.key, self.request.now() + _APART_FOR)
        self._end(APART)
        if self.token is not None:
            await self._release(apart=True)
        self._note(_explained(verdict, None, response.status))
        _strip_tags(response)
        response.headers.add("Cache-Status", f"{cache.name}; fwd={self.reason}")

    def _note(self, explanation: Explanation) -> None:
        for where in places_of(self.target):
            self.cache.reports.note(where, explanation)


def _explained(verdict: Verdict, entry: Entry | None, status: int | None = None) -> Explanation:
    if entry is not None and verdict.stored:
        return Explanation(True, verdict.rule, verdict.section, entry.status, entry.lifetime)
    return Explanation(False, verdict.rule, verdict.section, status or (entry.status if entry else None))


def _content_length(fields: Fields) -> int | None:
    text = first(fields, "content-length")
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 19 else None


def _strip_tags(response: Response) -> None:
    if has_tags(tuple(response.headers)):
        response.headers.remove("Cache-Tag")
        response.headers.remove("Surrogate-Key")
