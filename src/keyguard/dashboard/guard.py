"""The dashboard as a guard: it answers each request, written once for ASGI and WSGI.

    who is it? -> which page? -> read what it shows, or do what its form asks for -> draw it

It reads the form of a request, asks a function of the app's who the operator is, and does all the rest in one go, in a
thread if an event loop waits: what a page shows is in several stores, and each may take its time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any
from urllib.parse import quote

from keyguard.dashboard.answers import Elsewhere, Outcome, Shown, again, answer, answer_file
from keyguard.dashboard.asked import MOST_BYTES, Asked, BadForm, checked_place, read_form
from keyguard.dashboard.cookies import FORM, SESSION, is_nonce, is_ours, new_nonce, read_cookie, set_cookie, token_of
from keyguard.dashboard.operators import ByKey, Operator, Why, named_operator
from keyguard.dashboard.pages import FORMS, FORMS_THAT_LOOK, FORMS_WITH_PAGES, PAGES
from keyguard.dashboard.reading import Reading
from keyguard.dashboard.service import INSIDE, Service
from keyguard.dashboard.views import LogIn, Page, Problem
from keyguard.errors import StoreError
from keyguard.flow import blocking, call, is_async
from keyguard.guard import Guard
from keyguard.logs import logger, plain
from keyguard.request import CarriedRequest, Forward
from keyguard.response import Response
from keyguard.steps import ReadBody, Unread

log = logger("keyguard")

_ALLOW = (("Allow", "GET, HEAD"),)
_MOST = 32


class DashboardGuard(Guard):
    """Answers all requests to the dashboard."""

    reads_bodies = True
    keeps = frozenset({"decisions"})

    def __init__(self, service: Service, auth: Callable[..., Any] | None) -> None:
        """`auth` is a function of the request that returns the operator's name; `None` for keys."""
        self._service = service
        self._auth = auth
        self._keys = ByKey(service) if auth is None else None
        self._warned = False
        self._last: dict[str, tuple[datetime, Page]] = {}
        """By their places: pages as they were shown last, and when that was. For when the store does not answer."""

    def __repr__(self) -> str:
        return "<Dashboard>"

    def asynchronous(self) -> dict[str, object]:
        """Return the settings that only an event loop can run."""
        return {"auth": self._auth} if is_async(self._auth) else {}

    async def __call__(self, request: CarriedRequest, forward: Forward) -> Response:
        if request.websocket:
            return Response(404)
        if request.inherited and not self._warned:
            self._warned = True
            log.warning("%s", INSIDE)
        asked = Asked(request)
        body: tuple[bytes, Unread | None] = b"", None
        if asked.method == "POST":
            body = await ReadBody(request, MOST_BYTES)
        found: object = None
        if self._auth is not None and not self._is_file(asked):
            found = await call(self._auth, request)
            if isinstance(found, Response):
                return found
        return await blocking(self._answer)(asked, body, found)

    # -- all that blocks ------------------------------------------------------------------------------------

    def _answer(self, asked: Asked, body: tuple[bytes, Unread | None], found: object) -> Response:
        if not asked.path:
            return answer(self._to_its_top(asked))
        tag = asked.header("if-none-match")
        if self._is_file(asked):
            shown = answer_file(asked.parts[1], asked.query.get("v", ""), tag) if asked.reads else None
            if shown is not None:
                return shown
        reading = Reading(self._service, asked)
        operator: Operator | Why = ""
        cookies: list[str] = []
        try:
            if self._keys is not None:
                operator = self._keys.find(asked)
            elif found is not None:
                operator = Operator(named_operator(found), True)
            cookie = operator.cookie if isinstance(operator, Operator) else ""
            if not cookie:
                cookie = read_cookie(asked, FORM)
                if not is_nonce(cookie):
                    cookie = new_nonce()
                    cookies.append(set_cookie(asked, FORM, cookie))
            reading.welcome(operator if isinstance(operator, Operator) else None, token_of(cookie), keys=self._keys)
            outcome = self._outcome(asked, reading, body, operator, cookie)
        except StoreError as error:
            reading.failed(error)
            outcome = reading.problem(503, "store-down")
        if isinstance(outcome, Response):
            return outcome
        return answer(outcome, tag, cookies)

    def _outcome(
        self,
        asked: Asked,
        reading: Reading,
        body: tuple[bytes, Unread | None],
        operator: Operator | Why,
        cookie: str,
    ) -> Outcome | Response:
        if asked.method not in ("GET", "HEAD", "POST"):
            return reading.problem(405, "method", _ALLOW)
        if asked.method == "POST":
            refused = self._read(asked, reading, body, cookie)
            if refused is not None:
                return refused
        if self._keys is not None and asked.parts in (("log-in",), ("log-out",)):
            return self._door(asked, reading, operator)
        if not isinstance(operator, Operator):
            return self._nobody(asked, reading, operator)
        return self._page(asked, reading, operator)

    def _page(self, asked: Asked, reading: Reading, operator: Operator) -> Outcome:
        name = asked.parts[0]
        rest = asked.parts[1:]
        form = (name, len(rest), rest[-1] if rest else "")
        if asked.reads:
            if form in FORMS and form not in FORMS_WITH_PAGES:
                return reading.problem(405, "method", (("Allow", "POST"),))
            show = PAGES.get((name, len(rest)))
            return reading.problem(404, "not-found") if show is None else self._shown(reading, show, rest)
        do = FORMS.get(form)
        if do is None:
            known = (name, len(rest)) in PAGES
            return reading.problem(405, "method", _ALLOW) if known else reading.problem(404, "not-found")
        if not operator.may_change and form not in FORMS_THAT_LOOK:
            return reading.problem(403, "forbidden") if operator.seen else reading.problem(503, "store-down")
        return do(reading, *rest[:-1])

    def _shown(self, reading: Reading, show: Callable[..., Outcome], rest: tuple[str, ...]) -> Outcome:
        """Show a page; as it was, if the store does not answer now."""
        place = reading.asked.place
        answered = False
        try:
            reading.ping()
            answered = True
            outcome = show(reading, *rest)
        except StoreError as error:
            if answered:  # so it is what stands there: a record that is damaged, or of a later version
                return reading.problem(503, "failed", text=f"{plain(error)}.")
            reading.failed(error)
            at, page = self._last.get(place, (None, None))
            if page is None:
                return reading.problem(503, "store-down")
            return Shown(replace(page, shell=replace(reading.shell(page.shell.here), as_of=at)))
        if isinstance(outcome, Shown) and outcome.status == 200 and place and outcome.page.shell.reload:
            self._last.pop(place, None)
            while len(self._last) >= _MOST:
                self._last.pop(next(iter([*self._last]), ""), None)  # other threads may change it meanwhile
            self._last[place] = reading.now, outcome.page
        return outcome

    # -- who may come in --------------------------------------------------------------------------------------

    def _read(self, asked: Asked, reading: Reading, body: tuple[bytes, Unread | None], cookie: str) -> Outcome | None:
        """Read the form of a request. Returns what to answer if it is none, or not one of ours."""
        sent, unread = body
        if unread is Unread.TOO_LONG:
            return reading.problem(413, "too-long", (("Connection", "close"),))
        try:
            if unread is not None:
                raise BadForm("it did not come to its end")
            asked.form = read_form(asked.header("content-type"), sent)
        except BadForm:
            return reading.problem(400, "form")
        return None if is_ours(asked, cookie) else reading.problem(403, "csrf")

    def _door(self, asked: Asked, reading: Reading, operator: Operator | Why) -> Outcome:
        """Log somebody in, or out."""
        assert self._keys is not None
        if asked.parts == ("log-out",):
            if asked.reads:
                return Elsewhere(asked.root)
            return Elsewhere(f"{asked.root}log-in", headers=(("Set-Cookie", self._keys.log_out(asked)),))
        place = checked_place(asked.form.get("next", "") or asked.query.get("next", ""))
        if asked.reads:
            if isinstance(operator, Operator):
                return Elsewhere(asked.root + place)
            over = (("Set-Cookie", self._keys.log_out(asked)),) if operator else ()
            return Shown(LogIn(reading.shell("", reload=0), operator, place), headers=over)
        if asked.header("origin").startswith("http:") and not asked.local:
            return Shown(LogIn(reading.shell("", reload=0), "insecure", place), 403)
        made = self._keys.log_in(asked)
        if made in _STATUS:
            why: Any = made
            return Shown(LogIn(reading.shell("", reload=0), why, place), _STATUS[made])
        return Elsewhere(asked.root + place, headers=(("Set-Cookie", set_cookie(asked, SESSION, made)),))

    def _nobody(self, asked: Asked, reading: Reading, why: Why) -> Outcome | Response:
        """Answer somebody who is not let in."""
        if self._keys is None:
            return Shown(Problem(reading.shell("", reload=0), 403, "forbidden"), 403)
        if asked.by_script or not asked.reads:
            challenge = ("WWW-Authenticate", 'Cookie realm="keyguard"')
            return Shown(LogIn(reading.shell("", reload=0), why or "ended", ""), 401, (challenge,))
        if asked.header("sec-fetch-site") == "cross-site" and asked.header("sec-fetch-mode") == "navigate":
            return again()
        place = asked.place.replace("%", "%25").replace("&", "%26").replace("+", "%2B").replace("?", "%3F")
        more = f"?next={place}" if place else ""
        return Elsewhere(f"{asked.root}log-in{more}")

    @staticmethod
    def _is_file(asked: Asked) -> bool:
        return len(asked.parts) == 2 and asked.parts[0] == "static"

    @staticmethod
    def _to_its_top(asked: Asked) -> Outcome:
        """Return the way to the overview of somebody who has left out the slash at the end, without which no relative
        link would lead anywhere."""
        last = (asked.request.root or "").rstrip("/").rpartition("/")[2]
        return Elsewhere(f"{quote(last, safe='', errors='replace')}/" if last else "./", 307)


_STATUS: dict[str, int] = {"wrong": 403, "ended": 403, "not-allowed": 403, "too-many": 429, "store-down": 503}
