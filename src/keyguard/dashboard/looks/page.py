"""Pages as HTML: a template for each, numbers and times as the pages write them, charts as SVG.

Callers may be named by anything, so a sign that nobody can see stands in a page as its number: one that turns the order
of others round, say, by which one caller could look like another one, or half a sign, which no page can be sent with.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from keyguard.dashboard import views
from keyguard.dashboard.looks import bars, curve, formats, limits, meters, sentences, words
from keyguard.dashboard.looks.static import file
from keyguard.logs import plain

_TEMPLATES = {
    views.Overview: "overview.html",
    views.Keys: "keys.html",
    views.IssueKey: "issue.html",
    views.IssuedKey: "issued.html",
    views.OneKey: "key.html",
    views.Refusals: "refusals.html",
    views.Alerts: "alerts.html",
    views.Cache: "cache.html",
    views.Upstream: "upstream.html",
    views.Stores: "stores.html",
    views.AuditLog: "audit.html",
    views.LogIn: "log_in.html",
    views.Problem: "problem.html",
}


_UNSEEN = re.compile(
    r"[\x00-\x09\x0b-\x1f\x7f-\x9f\xad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    r"\ud800-\udfff\U000e0000-\U000e0fff]"
)


class Drawn(NamedTuple):
    """A page as it is sent."""

    body: bytes
    """The document, in UTF-8."""
    tag: str
    """The hash of what stands in `<main>`, for the field `ETag`: the clock and the light of the store stand outside."""


def page(of: views.Page) -> Drawn:
    """Draw a page."""
    drawn = _ENVIRONMENT.get_template(_TEMPLATES[type(of)]).make_module(
        {"page": of, "shell": of.shell, "now": of.shell.now}
    )
    main = _seen(str(drawn))
    tag = blake2b(main.encode(), digest_size=16).hexdigest()
    body = _ENVIRONMENT.get_template("base.html").render(
        shell=of.shell,
        now=of.shell.now,
        title=drawn.__dict__["title"],
        main=Markup(main),
        tag=tag,
        old="old" if of.shell.as_of else "",
    )
    return Drawn(_seen(body).encode(), tag)


def _seen(text: str) -> str:
    """Write signs that nobody can see as their numbers, as logs do."""
    return _UNSEEN.sub(lambda found: plain(found[0]), text)


def _environment() -> Environment:
    found = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    found.filters |= {
        "number": formats.number,
        "share": formats.share,
        "size": formats.size,
        "span": formats.span,
        "took": formats.took,
        "clock": formats.clock,
        "date": formats.date,
    }
    for module in (bars, curve, formats, limits, meters, sentences, words):
        found.globals[module.__name__.rsplit(".", 1)[1]] = module
    found.globals["file"] = file
    return found


_ENVIRONMENT = _environment()
for _name in ("base.html", "parts.html", *_TEMPLATES.values()):
    _ENVIRONMENT.get_template(_name)  # now: an app whose package lacks one does not start
