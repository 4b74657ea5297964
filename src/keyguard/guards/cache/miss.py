"""One request's way to the app and back: with whom it waits, what it asks, and what becomes of the answer."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial

from keyguard.errors import StoreError
from keyguard.guards.cache.coalescing import Joining
from keyguard.guards.cache.decorators import marking
from keyguard.guards.cache.entry import Entry, Fields, first, lines, without
from keyguard.guards.cache.flights import APART, LANDED, LEFT
from keyguard.guards.cache.key import places_of, readable, variance_of
from keyguard.guards.cache.policy import (
    Verdict,
    flows,
    freshened,
    is_about_request,
    make_entry,
    may_serve_on_error,
    may_store,
    names_request,
    part_of,
    vary_of,
    wants_events,
)
from keyguard.guards.cache.serving import NO_CONDITIONS, answer
from keyguard.guards.cache.stats import Explanation
from keyguard.http.fields import LIMIT_FIELDS
from keyguard.request import Forward, Request
from keyguard.response import APP, Response, Tee

log = logging.getLogger("keyguard")

SECOND = 1_000_000

_APART_FOR = 60 * SECOND
_ERRORS = frozenset({500, 502, 503, 504})
_NO_NUMBER = -1
_BODILESS = frozenset({204, 205})
_NOTHING: dict[str, None] = {}
_NO_CLIENT = dict.fromkeys(("if-none-match", "if-modified-since", "range", "if-range"))
"""What a client says of its own copy: the background asks for nobody's."""


async def asked_app(request: Request, forward: Forward) -> Response:
    """Call the app, and set what its route's markers say."""
    marks = marking()
    response = await forward(request)
    marks.apply(response.status, response.headers)
    return response


class Errand(Joining):
    """A miss or a validation, for one request."""

    def _fields(self, response: Response) -> Fields:
        """The fields as the app set them: those of guards further in are about this caller, and set afresh each time.

        Over a bridge it cannot be seen who set which.
        """
        own = self.request.findings.own_limits
        if own is None:
            return tuple(without(response.headers, LIMIT_FIELDS) if self.cache.crosses else response.headers)
        return (*without(response.headers, LIMIT_FIELDS), *own)

    # -- who asks -------------------------------------------------------------------------------------------

    async def run(self) -> Response:
        """The response: another request's, if one asks for the same already, else the app's."""
        validates = self._validators()
        waits = (
            self.cache.coalesce > 0
            and self.asked.method == "GET"
            and self.asked.range is None
            and self.reason != "request"
            and not wants_events(self.request.header("accept"))
            and (bool(validates) or self.conditions is NO_CONDITIONS)
        )
        if waits:
            self.key = self.flight_key()
            if not self.cache.flights.is_apart(self.key, self.request.now()):
                response = await self.join()
                if response is not None:
                    return response
        try:
            if self.flight is not None and self.cache.shared is not None and self.since and not self.in_vain:
                response = await self.lease()
                if response is not None:
                    return response
            self.cache.reports.counts.misses += 1
            return await self._ask(validates)
        except BaseException:
            self.end(LEFT)
            raise

    async def refresh(self, *, overdue: bool) -> Response:
        """The same in the background: not where somebody asks already. The response is for nobody.

        `overdue`: who asked before has not come back in the time that is set for it, and is not waited for.
        """
        self.key = self.flight_key()
        entry = self.entry
        assert entry is not None
        flight, leads = self.cache.flights.join(self.key)
        if overdue and not leads:
            self.cache.flights.end(self.key, flight, LEFT)
            flight, leads = self.cache.flights.join(self.key)
        nothing = Response(204)
        if not leads:
            return nothing
        self.lead(flight)
        try:
            if self.cache.shared is not None and self.since:
                try:
                    holder, found = await self.try_lease()
                    if self.brought(found) is not None:
                        await self.hand_over(holder)
                        return nothing
                    if holder is not None:
                        self.token = None
                        self.end(LEFT)
                        return nothing
                    self.since = found.since
                except StoreError:
                    self.token = None
            return await self._ask(self._validators(), _NO_CLIENT)
        except BaseException:
            self.end(LEFT)
            raise
        finally:
            entry.refreshing_since = 0

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

    async def _ask(self, validators: dict[str, str | None], less: Mapping[str, None] = _NOTHING) -> Response:
        """Ask the app, less some of the request's fields, and make of its answer what the rules say."""
        request = self.request
        if self.entry is not None and self._outdated():  # purged while this request waited: it serves for nothing
            self.entry, less = None, _NO_CLIENT if validators else less
            validators = {}
        self.asked_at, self.moment = request.now(), self.cache.flights.moment
        try:
            with request.changed({**less, **validators}, whole_body=True):
                response = await asked_app(request, self.forward)
        except Exception:
            self.end(APART)
            if request.reached_app:
                stale = await self._instead_of_error("the app failed")
                if stale is not None:
                    log.warning("the app failed; a stale response was served", exc_info=True)
                    return stale
            raise
        self.cache.learn(request)
        if not self.asked.credentials and self.cache.has_credentials(request):
            self.asked = self.asked._replace(credentials=True)  # found out by a guard further in
        if request.findings.refusal is not None:
            self.end(APART)
            response.headers.add("Cache-Status", f"{self.cache.name}; fwd={self.reason}")
            return response
        if response.status == 304 and validators:
            return await self._validated(response)
        if response.status in _ERRORS:
            stale = await self._instead_of_error(f"the app answered {response.status}", response.status)
            if stale is not None:
                self.end(APART)
                return stale
        if self.asked.method == "HEAD":
            return await self._headed(response)
        return await self.store(response)

    async def _instead_of_error(self, what: str, status: int | None = None) -> Response | None:
        entry, request = self.entry, self.request
        now = request.now()
        if entry is None or not may_serve_on_error(entry, now) or self._outdated():
            return None
        if self.cache.shared is not None and self.cache.old(entry, now):
            try:  # the app may have taken long to fail
                found = await self.cache.shared.look(request, self.target)
            except StoreError:
                self.cache.reports.counts.errors += 1
            else:
                newer = self.brought(found)
                if newer is not None or not any(map(entry.same_as, found.entries)):
                    return newer
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
        update: Fields = self._fields(response)
        status = f"{cache.name}; fwd={self.reason}; fwd-status=304"
        tag = first(update, "etag")
        settings = cache.settings_for(request)
        fresh = freshened(entry, update, settings, asked_at=self.asked_at, received=now)
        if tag is not None and entry.etag is not None and tag.removeprefix("W/") != entry.etag.removeprefix("W/"):
            verdict = Verdict(False, "a 304 named another entity tag than the entry's", "RFC 9111, section 4.3.4")
            fresh = entry
        else:
            verdict = may_store(self.asked._replace(method="GET"), entry.status, fresh.fields, settings, now)
        cache.reports.counts.validated += 1
        if verdict.stored and await self._keep_freshened(fresh, entry, update):
            status += "; stored"
            self.end(LANDED, fresh)
        else:
            await cache.let_go(self.target, entry)
            self.end(APART)
        await self.release(apart=not verdict.stored)
        self._note(_explained(verdict, fresh))
        answered = answer(request, fresh, self.conditions, now, status)
        if answered is None:
            answered = answer(request, fresh, NO_CONDITIONS, now, status)
        assert answered is not None
        told = [pair for pair in response.headers if pair[0].lower() in LIMIT_FIELDS]
        for name in {name for name, _ in told}:
            answered.headers.remove(name)
        for name, value in told:
            answered.headers.add(name, value)
        for name, value in update:  # these are of this answer, not of the entry
            name = name.lower()
            cookie = name == "set-cookie" and not cache.settings.set_cookie
            if cookie or names_request(name):
                answered.headers.add(name, value)
        return answered

    async def _headed(self, response: Response) -> Response:
        """A HEAD that reached the app freshens what a GET has stored, or drops it (RFC 9111, section 4.3.5)."""
        cache, request, entry = self.cache, self.request, self.entry
        now = request.now()
        fields: Fields = self._fields(response)
        if entry is not None and entry.status == 200 and entry.part is None and response.status == 200:
            length = first(fields, "content-length")
            same = (
                (first(fields, "etag") or entry.etag) == entry.etag
                and (first(fields, "last-modified") or entry.last_modified) == entry.last_modified
                and (length is None or length == str(len(entry.body)))
            )
            settings = cache.settings_for(request)
            fresh = freshened(entry, fields, settings, asked_at=self.asked_at, received=now)
            same = same and may_store(self.asked._replace(method="GET"), 200, fresh.fields, settings, now).stored
            if not (same and await self._keep_freshened(fresh, entry, fields)):
                await cache.let_go(self.target, entry)
        elif entry is not None and 400 <= response.status < 500 and not is_about_request(response.status):
            await cache.let_go(self.target, entry)
        self.end(LEFT)
        strip_tags(response)
        response.headers.add("Cache-Status", f"{cache.name}; fwd={self.reason}")
        return response

    async def _keep_freshened(self, fresh: Entry, entry: Entry, update: Fields) -> bool:
        """Store what a 304 or a HEAD has freshened; False where it was purged meanwhile."""
        if self._outdated():
            return False
        fresh.since = self.since
        await self._vary_too(fresh, entry, update)
        return await self.keep(fresh)

    async def _vary_too(self, fresh: Entry, entry: Entry, update: Fields) -> None:
        """What freshens an entry may name more fields that it is chosen by (RFC 9111, section 4.1)."""
        names = sorted({*(vary_of(update) or ()), *[name for name, _ in entry.variance]})
        if len(names) > len(entry.variance):
            fresh.variance = variance_of(self.request, names)
            await self.cache.let_go(self.target, entry)  # it would match what the fresh one does not
        if first(update, "vary") is not None:
            fresh.fields = (*without(fresh.fields, frozenset({"vary"})), ("Vary", ", ".join(names)))

    async def store(self, response: Response, *, late: bool = False) -> Response:
        """Store the app's response, if that is allowed, while it goes on to the client.

        `late`: not before the app has returned, for it still changes what the response tells of.
        """
        cache, request = self.cache, self.request
        now = request.now()
        fields: Fields = self._fields(response)
        asked = self.asked
        cache.learn(request)
        if not asked.credentials and cache.has_credentials(request):
            asked = asked._replace(credentials=True)  # found out by a guard further in
        settings = cache.settings_for(request)
        verdict = may_store(asked, response.status, fields, settings, now)
        length = _content_length(fields)
        if verdict.stored and length == _NO_NUMBER:
            verdict = Verdict(False, "its Content-Length is not one number", "RFC 9112, section 6.3")
        elif verdict.stored and is_about_request(response.status) and await self._in_place_of_fresh(now):
            verdict = Verdict(False, f"a {response.status} is about this request; what is stored is fresh", "")
        elif verdict.stored and request.read_body and asked.method == "GET":
            verdict = Verdict(False, "the request had a body, which tells no entries apart", "RFC 9110, section 9.3.1")
        elif verdict.stored and length is not None and length > cache.max_entry_bytes:
            verdict = Verdict(False, f"it is larger than an entry may be, {cache.max_entry_bytes} bytes", "")
        names = sorted({*(vary_of(fields) or ()), *cache.settings.vary})
        variance = variance_of(request, names)
        if verdict.stored and not readable(variance):
            verdict = Verdict(False, "a request field that it is chosen by is too long to be compared", "")
        if not verdict.stored:
            await self._not_stored(response, verdict)
            return response
        entry = make_entry(response.status, fields, settings, asked_at=self.asked_at, received=now)
        if cache.settings.vary:
            response.headers.set("Vary", ", ".join(names))
            entry.fields = (*without(entry.fields, frozenset({"vary"})), ("Vary", ", ".join(names)))
        entry.variance = variance
        entry.range_text = asked.range
        shareable = (
            not flows(fields)
            and not entry.must_validate
            and (entry.lifetime > entry.age or entry.stale_while_revalidate > 0)
        )
        if not shareable:
            await self._apart(lasting=True)
        strip_tags(response)
        response.headers.add("Cache-Status", f"{cache.name}; fwd={self.reason}; stored")

        async def done(body: bytes) -> None:
            entry.body = body
            if entry.status == 206:
                entry.part = part_of(fields, body)
            entry.since = self.since
            try:
                kept = await self.keep(entry)
            except BaseException:  # who asked has left: others who wait for this answer are not to wait in vain
                self.end(LEFT)
                request.at_end(self._over)
                raise
            if not kept:
                self.end(LEFT)
                self._note(Explanation(False, "it was purged while it was on its way", "RFC 9111, section 4.4"))
                return
            if shareable:
                cache.flights.rejoin(self.key)
                self.end(LANDED, entry)
            self._note(_explained(verdict, entry))

        def waits() -> None:
            request.not_at_end(self._over)  # who waits for this answer goes on waiting: it is settled soon

        def cut(why: str) -> None:
            if entry.since:
                request.at_end(partial(cache.let_go, self.target, entry))  # it was thought to be whole
            if tee.ended:
                request.at_end(self._over)
            cache.reports.counts.not_stored += 1
            self._note(Explanation(False, f"its body was not kept: {why}", "RFC 9111, section 3.3"))
            if tee.outgrown:  # so would the next be: nobody waits to see
                if self.key:
                    cache.flights.set_apart(self.key, request.now() + _APART_FOR)
                self.end(APART)
            self.end(APART if tee.crowded else LEFT)

        tee = Tee(cache.max_entry_bytes, done, cut, length=length, room=cache.room, waits=waits, late=late)
        if response.body is not APP:
            await done(response.body)
        elif response.status in _BODILESS:
            await done(b"")
        else:
            response.tee(tee)
        return response

    async def _apart(self, *, lasting: bool) -> None:
        """Let those who wait go on: what comes is not for them. `lasting`: nor will the next answers be."""
        if self.key and lasting:
            self.cache.flights.set_apart(self.key, self.request.now() + _APART_FOR)
        self.end(APART)
        await self.release(apart=True)
        self.request.not_at_end(self._over)

    async def _in_place_of_fresh(self, now: int) -> bool:
        """Whether an answer would take the place of a fresh one, which is about the resource."""
        found = [self.entry]
        if self.entry is None and self.asked.credentials:  # there may be one that is not for who carries any
            found.append(
                (await self.cache.find(self.request, self.target, self.asked._replace(credentials=False))).whole
            )
        return any(
            entry is not None and not is_about_request(entry.status) and entry.ttl(now) > 0 and not entry.must_validate
            for entry in found
        )

    async def _not_stored(self, response: Response, verdict: Verdict) -> None:
        cache = self.cache
        cache.reports.counts.not_stored += 1
        of_request = is_about_request(response.status)
        if (
            self.entry is not None
            and response.status < 500
            and response.status != 304
            and self.asked.range is None
            and not of_request
        ):
            await cache.let_go(self.target, self.entry)  # it has been superseded
        if of_request:  # so it may be another's who waits
            self.end(LEFT)
            await self.release(apart=False)
        else:
            await self._apart(lasting=response.status < 500)
        self._note(_explained(verdict, None, response.status))
        strip_tags(response)
        response.headers.add("Cache-Status", f"{cache.name}; fwd={self.reason}")

    def _note(self, explanation: Explanation) -> None:
        for where in places_of(self.target):
            self.cache.reports.note(where, explanation)


def _explained(verdict: Verdict, entry: Entry | None, status: int | None = None) -> Explanation:
    if entry is not None and verdict.stored:
        return Explanation(True, verdict.rule, verdict.section, entry.status, entry.lifetime)
    return Explanation(False, verdict.rule, verdict.section, status or (entry.status if entry else None))


def _content_length(fields: Fields) -> int | None:
    """What `Content-Length` says; `None` where there is none, and `_NO_NUMBER` where it cannot be relied on."""
    found = lines(fields, "content-length")
    if not found:
        return None
    text = found[0]
    return int(text) if len(found) == 1 and text.isascii() and text.isdigit() and len(text) < 19 else _NO_NUMBER


def strip_tags(response: Response) -> None:
    """Take off the fields that are for caches and not for the client."""
    for name in ("Cache-Tag", "Surrogate-Key"):
        if name in response.headers:
            response.headers.remove(name)
