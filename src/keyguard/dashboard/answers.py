"""Answers of the dashboard: their header fields, which are the same for all pages, and the `ETag` of a page.

Rules:
- No page is stored by anybody. One that has not changed is not sent again to the script that fetches it: the tag is of
  what stands in `<main>`.
- Only scripts, styles and pictures of our own run, and only our own pages are posted to. Nothing is inline.
- No URL is made of `Host`: all are relative.
- The policy on referrers is `same-origin`: by `no-referrer` browsers send forms with `Origin: null`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from keyguard.dashboard.looks import CONTENT_SECURITY_POLICY, file, page
from keyguard.dashboard.views import Page
from keyguard.response import Response

_SAFE = (
    ("Content-Security-Policy", CONTENT_SECURITY_POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "same-origin"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)


class Shown(NamedTuple):
    """A page to be shown."""

    page: Page
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


class Elsewhere(NamedTuple):
    """A page to go on to, relative to the one that was asked for."""

    place: str
    status: int = 303
    headers: tuple[tuple[str, str], ...] = ()


Outcome = Shown | Elsewhere


def answer(outcome: Outcome, tag: str = "", cookies: Iterable[str] = ()) -> Response:
    """Return the response. `tag` is what the request says that it has already."""
    fields = [*_SAFE, *outcome.headers, *[("Set-Cookie", cookie) for cookie in cookies], ("Cache-Control", "no-store")]
    if isinstance(outcome, Elsewhere):
        return Response(outcome.status, [*fields, ("Location", outcome.place)])
    drawn = page(outcome.page)
    if outcome.status == 200:
        etag = f'"{drawn.tag}"'
        fields.append(("ETag", etag))
        if etag in [one.strip().removeprefix("W/") for one in tag.split(",")]:
            return Response(304, fields)
    return Response(outcome.status, [*fields, ("Content-Type", "text/html; charset=utf-8")], drawn.body)


def answer_file(name: str, version: str, tag: str) -> Response | None:
    """Return a file of the pages' own: a style, a script, a picture. `version` is the one that its URL names."""
    found = file(name)
    if found is None:
        return None
    etag = f'"{found.tag}"'
    kept = "public, max-age=31536000, immutable" if version == found.tag else "no-cache"
    fields = [*_SAFE, ("Cache-Control", kept), ("ETag", etag)]
    if etag in [one.strip().removeprefix("W/") for one in tag.split(",")]:
        return Response(304, fields)
    return Response(200, [*fields, ("Content-Type", found.media_type)], found.body)


_AGAIN = b'<!doctype html><html lang="en"><meta charset="utf-8"><title>keyguard</title><p>One moment.</p></html>'


def again() -> Response:
    """Have the browser ask for the same page once more, now from a page of ours.

    A person who follows a link in a message comes from another site, and cookies that are `SameSite=Strict` are not
    sent then.
    """
    fields = [*_SAFE, ("Refresh", "0"), ("Cache-Control", "no-store"), ("Content-Type", "text/html; charset=utf-8")]
    return Response(200, fields, _AGAIN)
