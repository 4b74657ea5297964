"""Keeping the app's answer to a miss: it is stored, or freshens an entry, or ends one without being stored itself."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from keyguard.guards.cache.coalescing import Coalescing
from keyguard.guards.cache.entry import Entry, Fields, first, without
from keyguard.guards.cache.flights import HIT_FOR_MISS, LANDED, LEFT
from keyguard.guards.cache.key import Target
from keyguard.guards.cache.policy import Verdict, content_length, is_about_request, may_store, why_not_kept
from keyguard.guards.cache.purge import digests_of
from keyguard.guards.cache.request import CacheRequest
from keyguard.guards.cache.serving import NO_CONDITIONS, Conditions, answer, set_limits, strip_tags
from keyguard.guards.cache.stats import Explanation
from keyguard.guards.cache.storage import CacheStorage
from keyguard.guards.cache.storing import (
    flows,
    freshened,
    make_entry,
    of_this_answer,
    part_of,
    same_representation,
    vary_of,
)
from keyguard.guards.cache.variants import variance_of
from keyguard.http.fields import LIMIT_FIELDS
from keyguard.request import CarriedRequest
from keyguard.response import APP, Response, Tee

_BODILESS = frozenset({204, 205})


@dataclass(slots=True)
class Lookup:
    """A request for which the app is asked, and what the cache holds for it."""

    request: CarriedRequest
    target: Target
    asked: CacheRequest
    reason: str
    """Why the app is asked, in the words of RFC 9211, section 2.2."""
    moment: int
    """An answer whose URI is purged in this process after that is not stored."""
    since: int
    """The same by the shared store's clock; 0 if it is not known."""
    conditions: Conditions = NO_CONDITIONS
    entry: Entry | None = None
    """The entry that may not be used without asking the app; `None` if there is none."""
    asked_at: int = 0
    """When the app was asked."""

    @property
    def digests(self) -> tuple[str, str]:
        """The digests by which the URI is purged."""
        return digests_of(self.target.host, self.target.uri)


class Keeping:
    """Keeps the app's answer to one request, as far as the rules allow."""

    def __init__(self, storage: CacheStorage, lookup: Lookup, coalescing: Coalescing) -> None:
        self.storage = storage
        self.reader = storage.reader
        self.lookup = lookup
        self.coalescing = coalescing

    # -- a validation -----------------------------------------------------------------------------------------

    async def validated(self, response: Response, entry: Entry) -> Response:
        """Answer from an entry that is still right, as the app says (RFC 9111, section 4.3.4)."""
        storage, lookup, coalescing = self.storage, self.lookup, self.coalescing
        request = lookup.request
        now = request.clock()
        update = self._fields(response)
        status = f"{self.reader.name}; fwd={lookup.reason}; fwd-status=304"
        tag = first(update, "etag")
        settings = self.reader.settings_for(request)
        fresh = freshened(entry, update, settings, asked_at=lookup.asked_at, received=now)
        if tag is not None and entry.etag is not None and tag.removeprefix("W/") != entry.etag.removeprefix("W/"):
            verdict = Verdict(False, "a 304 named another entity tag than the entry's", "RFC 9111, section 4.3.4")
            fresh = entry
        else:
            verdict = may_store(lookup.asked._replace(method="GET"), entry.status, fresh.fields, settings, now)
        storage.reports.counts.validated += 1
        if verdict.stored and await self._keep_freshened(fresh, entry, update):
            status += "; stored"
            coalescing.end(LANDED, fresh)
        else:
            await storage.drop(lookup.target, entry)
            coalescing.end(HIT_FOR_MISS)
        await coalescing.release(hit_for_miss=not verdict.stored)
        self.note(verdict.explained(fresh.status, fresh.lifetime))
        answered = answer(request, fresh, lookup.conditions, now, status)
        if answered is None:
            answered = answer(request, fresh, NO_CONDITIONS, now, status)
        assert answered is not None
        set_limits(answered, response)
        for name, value in of_this_answer(update, self.reader.settings):
            answered.headers.add(name, value)
        return answered

    async def headed(self, response: Response) -> Response:
        """Freshen what a GET has stored by a HEAD that reached the app, or drop it (RFC 9111, section 4.3.5)."""
        storage, lookup, entry = self.storage, self.lookup, self.lookup.entry
        now = lookup.request.clock()
        fields = self._fields(response)
        if entry is not None and entry.status == 200 and entry.part is None and response.status == 200:
            settings = self.reader.settings_for(lookup.request)
            fresh = freshened(entry, fields, settings, asked_at=lookup.asked_at, received=now)
            asked = lookup.asked._replace(method="GET")
            same = same_representation(entry, fields) and may_store(asked, 200, fresh.fields, settings, now).stored
            if not (same and await self._keep_freshened(fresh, entry, fields)):
                await storage.drop(lookup.target, entry)
        elif entry is not None and 400 <= response.status < 500 and not is_about_request(response.status):
            await storage.drop(lookup.target, entry)
        self.coalescing.end(LEFT)
        strip_tags(response)
        response.headers.add("Cache-Status", f"{self.reader.name}; fwd={lookup.reason}")
        return response

    async def _keep_freshened(self, fresh: Entry, entry: Entry, update: Fields) -> bool:
        """Store what a 304 or a HEAD has freshened; False if it was purged meanwhile."""
        if self.purged():
            return False
        lookup = self.lookup
        fresh.since = lookup.since
        # The update may name more fields by which the entry is chosen (RFC 9111, section 4.1).
        names = sorted({*(vary_of(update) or ()), *[name for name, _ in entry.variance]})
        if len(names) > len(entry.variance):
            fresh.variance = variance_of(lookup.request, names)
            await self.storage.drop(lookup.target, entry)  # it would match what the fresh one does not
        if first(update, "vary") is not None:
            fresh.set_vary(names)
        return await self._keep(fresh)

    # -- a whole answer ---------------------------------------------------------------------------------------

    async def store(self, response: Response, *, late: bool = False) -> Response:
        """Store the app's response, if that is allowed, while it goes on to the client.

        `late`: not before the app has returned, since it still changes what the response tells of.
        """
        storage, reader, lookup, coalescing = self.storage, self.reader, self.lookup, self.coalescing
        request = lookup.request
        now = request.clock()
        fields = self._fields(response)
        self.learn()
        settings = reader.settings_for(request)
        verdict = may_store(lookup.asked, response.status, fields, settings, now)
        names = sorted({*(vary_of(fields) or ()), *settings.vary})
        variance, limit = variance_of(request, names), storage.max_entry_bytes
        if verdict.stored:
            why = why_not_kept(lookup.asked, fields, variance, limit, read_body=request.read_body)
            if why is None and is_about_request(response.status) and await self._would_replace_fresh(now):
                why = Verdict(False, f"a {response.status} is about this request; what is stored is fresh", "")
            verdict = why or verdict
        if not verdict.stored:
            await self._not_stored(response, verdict)
            return response
        entry = make_entry(response.status, fields, settings, asked_at=lookup.asked_at, received=now)
        if settings.vary:
            response.headers.set("Vary", ", ".join(names))
            entry.set_vary(names)
        entry.variance = variance
        entry.range_text = lookup.asked.range
        shareable = (
            not flows(fields)
            and not entry.must_validate
            and (entry.lifetime > entry.age or entry.stale_while_revalidate > 0)
        )
        if not shareable:
            await coalescing.disperse(lasting=True)
        strip_tags(response)
        response.headers.add("Cache-Status", f"{reader.name}; fwd={lookup.reason}; stored")

        async def done(body: bytes) -> None:
            entry.body = body
            if entry.status == 206:
                entry.part = part_of(fields, body)
            entry.since = lookup.since
            try:
                kept = await self._keep(entry)
            except BaseException:  # the client has left: requests that wait for this answer must not wait in vain
                coalescing.end(LEFT)
                request.at_end(coalescing.over)
                raise
            if not kept:
                coalescing.end(LEFT)
                self.note(Explanation(False, "it was purged while it was on its way", "RFC 9111, section 4.4"))
                return
            if shareable:
                coalescing.land(entry)
            self.note(verdict.explained(entry.status, entry.lifetime))

        def waits() -> None:
            request.not_at_end(coalescing.over)  # requests that wait for this answer go on waiting: it comes soon

        def cut(why: str) -> None:
            if entry.since:
                request.at_end(partial(storage.drop, lookup.target, entry))  # it was thought to be whole
            if tee.ended:
                request.at_end(coalescing.over)
            storage.reports.counts.not_stored += 1
            self.note(Explanation(False, f"its body was not kept: {why}", "RFC 9111, section 3.3"))
            if tee.outgrown:  # so would the next be
                coalescing.hit_for_miss()
            coalescing.end(HIT_FOR_MISS if tee.outgrown or tee.crowded else LEFT)

        length = content_length(fields)
        tee = Tee(limit, done, cut, length=length, budget=storage.budget, waits=waits, late=late)
        if response.body is not APP:
            await done(response.body)
        elif response.status in _BODILESS:
            await done(b"")
        else:
            response.tee(tee)
        return response

    async def _would_replace_fresh(self, now: int) -> bool:
        """Tell whether an answer about the request would replace a fresh one about the resource."""
        lookup = self.lookup
        found = [lookup.entry]
        if lookup.entry is None and lookup.asked.credentials:  # there may be one that is not for callers with any
            asked = lookup.asked._replace(credentials=False)
            found.append((await self.storage.find(lookup.request, lookup.target, asked)).whole)
        return any(
            entry is not None and not is_about_request(entry.status) and entry.ttl(now) > 0 and not entry.must_validate
            for entry in found
        )

    async def _not_stored(self, response: Response, verdict: Verdict) -> None:
        storage, lookup = self.storage, self.lookup
        storage.reports.counts.not_stored += 1
        of_request = is_about_request(response.status)
        if (
            lookup.entry is not None
            and response.status < 500
            and response.status != 304
            and lookup.asked.range is None
            and not of_request
        ):
            await storage.drop(lookup.target, lookup.entry)  # it has been superseded
        if of_request:  # another request may be answered otherwise
            self.coalescing.end(LEFT)
            await self.coalescing.release()
        else:
            await self.coalescing.disperse(lasting=response.status < 500)
        self.note(verdict.explained(response.status))
        strip_tags(response)
        response.headers.add("Cache-Status", f"{self.reader.name}; fwd={lookup.reason}")

    # -- both -------------------------------------------------------------------------------------------------

    async def _keep(self, entry: Entry) -> bool:
        """Store an entry, and give up the lease in the same trip. False if it was purged meanwhile."""
        if self.purged():
            return False
        storage, lookup, coalescing = self.storage, self.lookup, self.coalescing
        kept = await storage.keep(lookup.request, lookup.target, entry, lookup.asked_at, coalescing.releasing())
        if kept.told:
            coalescing.released()
        if not self.purged():
            return not kept.void
        storage.local.drop(lookup.target.key, entry)  # it was purged while it was put there
        return False

    def _fields(self, response: Response) -> Fields:
        """Return the fields as the app set them, without those of the guards further in: they are about this caller.

        Behind a bridge it is not known who set which.
        """
        own = self.lookup.request.state.own_limits
        if own is None:
            return tuple(without(response.headers, LIMIT_FIELDS) if self.reader.crosses else response.headers)
        return (*without(response.headers, LIMIT_FIELDS), *own)

    def learn(self) -> None:
        """Note the credentials that a guard further in has found."""
        lookup = self.lookup
        self.reader.learn(lookup.request)
        if not lookup.asked.credentials and self.reader.has_credentials(lookup.request):
            lookup.asked = lookup.asked._replace(credentials=True)

    def purged(self) -> bool:
        """Tell whether the URI was purged in this process after the app was asked."""
        return self.storage.purges.void(self.lookup.digests, self.lookup.moment)

    def note(self, explanation: Explanation) -> None:
        """Remember what became of the answer."""
        self.storage.reports.note(self.lookup.digests, explanation)
