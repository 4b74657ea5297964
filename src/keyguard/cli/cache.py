"""The commands `keyguard cache ...`: what a shared store holds of responses, making it void, and why one is not cached.

keyguard cache stats --store redis://localhost
keyguard cache purge /products/1 --store redis://localhost
keyguard cache purge --tag products
keyguard cache explain https://api.example.com/products/1 --header "X-API-Key: kg_..."
"""

from __future__ import annotations

import argparse
import http.client
import json
import sys
from typing import Any
from urllib.parse import urlsplit

from keyguard.cli.input import FORMS, add_store, adding_to, given, given_lines, json_text, seconds_or_duration
from keyguard.cli.opening import app_of, lasting, store_for
from keyguard.cli.operator import operator
from keyguard.clock import wall_clock
from keyguard.errors import ConfigurationError
from keyguard.flow import Flow
from keyguard.guards.cache import settings as checks
from keyguard.guards.cache.entry import Fields, decode, lines
from keyguard.guards.cache.policy import may_store
from keyguard.guards.cache.purge import ALL_MARK, path_mark, split_url, tag_mark, uri_digest
from keyguard.guards.cache.purges_noted import EVERYTHING, purge_noted, told
from keyguard.guards.cache.request import CacheRequest, is_credential
from keyguard.guards.cache.settings import Settings
from keyguard.guards.cache.shared import Shared
from keyguard.guards.cache.storing import initial_age, lifetime_of, said, vary_of
from keyguard.http.cache_control import parse_cache_control
from keyguard.logs import plain
from keyguard.run import run_flow
from keyguard.units import seconds

_TIMEOUT = 10  # seconds


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the actions of `keyguard cache`."""
    action = adding_to(parser)

    stats = action("stats", _stats, "count what a store holds of cached responses")
    purge = action("purge", _purge, "serve no more what is cached for a URL, under a tag, or at all")
    for command in (stats, purge):
        add_store(command, "redis://localhost")
    purge.add_argument("url", nargs="?", help="a URL, or a path such as /items?page=2 for every host")
    purge.add_argument("--tag", help="what carries this tag")
    purge.add_argument("--all", action="store_true", help="everything")

    explain = action("explain", _explain, "ask for a URL, and tell why its response is cached or is not")
    explain.add_argument("url", help=f"such as http://127.0.0.1:8000/products/1, {FORMS}")
    explain.add_argument("--header", action="append", default=[], metavar="'NAME: VALUE'", help=FORMS.capitalize())
    explain.add_argument("--ttl", type=seconds_or_duration, metavar="DURATION", help="as in ResponseCache(ttl=...)")
    explain.add_argument("--heuristic", action="store_true", help="as in ResponseCache(heuristic=True)")
    explain.add_argument("--public", action="store_true", help="as in ResponseCache(public=True)")
    explain.add_argument("--private", action="store_true", help="as in ResponseCache(by=...)")
    explain.add_argument("--set-cookie", action="store_true", help="as in ResponseCache(set_cookie=True)")
    explain.add_argument("--targeted", action="append", default=[], metavar="FIELD", help="as in ResponseCache")


def _stores(options: argparse.Namespace) -> tuple[Any, Any]:
    """Return the store in which responses are cached, and that of the audit log."""
    instead = "is the app's own: ask it there, with guard.cache.stats() and purge()"
    app = app_of(options)
    if app is not None:  # a cache may have a store of its own
        return lasting(app.cache.store or app.store, instead), app.store
    store = store_for(options, "--store redis://localhost", make=True, instead=instead)
    return store, store


def _stats(options: argparse.Namespace) -> int:
    store, _ = _stores(options)
    urls: set[str] = set()
    by_status: dict[int, int] = {}
    counts = {"entries": 0, "bytes": 0, "fresh": 0}
    now = wall_clock()
    for key, value in store.scan("rc:"):
        pool, _, rest = key.partition("|")
        entry = decode(value) if rest[:1] == "v" else None
        if entry is None:
            continue
        urls.add(pool)
        counts["entries"] += 1
        counts["bytes"] += len(value)
        counts["fresh"] += entry.ttl(now) > 0
        by_status[entry.status] = by_status.get(entry.status, 0) + 1
    found: dict[str, Any] = {**counts, "urls": len(urls), "statuses": dict(sorted(by_status.items()))}
    if options.json:
        print(json.dumps(found, indent=2))
    else:
        for name, number in found.items():
            text = ", ".join(f"{n} of {status}" for status, n in number.items()) if name == "statuses" else number
            print(f"{name:9} {text}")
    return 0


def _purge(options: argparse.Namespace) -> int:
    if sum((options.url is not None, options.tag is not None, options.all)) != 1:
        raise ConfigurationError("name one of: a URL, --tag TAG, --all")
    if options.tag == "":
        raise ConfigurationError("--tag names a tag")
    store, books = _stores(options)
    shared = Shared(1)
    flow: Flow[Any]
    if options.all:
        what, flow = EVERYTHING, shared.purge([ALL_MARK])
    elif options.tag is not None:
        what, flow = told(None, options.tag), shared.purge([tag_mark(options.tag)])
    else:
        host, uri = split_url(options.url)
        what = options.url
        flow = shared.purge([path_mark(uri)]) if host is None else shared.invalidate([uri_digest(host, uri)])
    run_flow(store, flow)
    noted = EVERYTHING if options.all else told(options.url, options.tag)
    run_flow(books, purge_noted(noted, wall_clock(), operator()))
    if options.json:
        print(json.dumps({"purged": what}))
    else:
        print(plain(f"Purged {what}: what was stored before now is not served any more."), file=sys.stderr)
    return 0


# -- why a response is not cached -------------------------------------------------------------------------------


def _explain(options: argparse.Namespace) -> int:
    settings = Settings(
        ttl=None if options.ttl is None else seconds("--ttl", options.ttl, min=1, max="365 days"),
        private=options.private,
        public=options.public,
        heuristic=options.heuristic,
        set_cookie=options.set_cookie,
        targeted=checks.field_names("--targeted", options.targeted),
    )
    url = given(options.url, "a URL")
    pairs = [_field(line) for text in options.header for line in given_lines(text, "a header field")]
    headers = dict(pairs)
    asked_at = wall_clock()
    status, fields = _get(url, headers)
    received = wall_clock()
    _, again = _get(url, headers)
    sent = {name.lower(): value for name, value in pairs}
    asked = CacheRequest(
        "GET",
        parse_cache_control([sent["cache-control"]] if "cache-control" in sent else []),
        any(is_credential(name, settings) for name in sent),
        sent.get("range"),
    )
    verdict = may_store(asked, status, fields, settings, received)
    found: dict[str, Any] = {
        "status": status,
        "stored": verdict.stored,
        "rule": verdict.rule,
        "section": verdict.section,
        "lifetime": lifetime_of(status, fields, said(fields, settings.targeted), received, settings),
        "age": initial_age(fields, asked_at, received),
        "varies by": list(vary_of(fields) or ["*"]) if lines(fields, "vary") else [],
        "cache-control": ", ".join(lines(fields, "cache-control")),
        "cache-status": ", ".join(lines(fields, "cache-status")),
        "asked again": ", ".join(lines(again, "cache-status")),
    }
    if options.json:
        print(json_text(found, ascii_alone=True))
        return 0
    where = verdict.section or "a setting"
    print(f"may be stored ({where})" if verdict.stored else f"is not stored: {verdict.rule} ({where})")
    for name, value in found.items():
        if name in ("stored", "rule", "section") or value in ("", [], None):
            continue
        text = ", ".join(value) if isinstance(value, list) else str(value)
        print(f"  {name:13} {plain(text)}{' s' if name in ('lifetime', 'age') else ''}")
    if not lines(fields, "cache-status"):
        print("No ResponseCache has seen this response: it names none in Cache-Status.", file=sys.stderr)
    return 0


def _get(url: str, headers: dict[str, str]) -> tuple[int, Fields]:
    """Return status and header fields; a redirect is an answer like any other."""
    problem = ""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or parts.scheme not in ("http", "https"):
        # Not shown: it may hold a key, or a password.
        raise ConfigurationError("this is not a URL such as http://127.0.0.1:8000/products/1")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(host, port, timeout=_TIMEOUT)
    try:
        connection.request("GET", (parts.path or "/") + ("?" + parts.query if parts.query else ""), headers=headers)
        response = connection.getresponse()
        while response.read(65536):
            pass
        return response.status, tuple(response.getheaders())
    except (OSError, http.client.HTTPException) as error:
        problem = (
            f"no answer from {host}: {type(error).__name__ if isinstance(error, http.client.InvalidURL) else error}"
        )
    except ValueError:
        problem = "the URL or a header field holds what cannot be sent: a line break, or what is not Latin-1"
    finally:
        connection.close()
    raise ConfigurationError(problem)


def _field(text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise ConfigurationError("--header takes a field in one word: --header 'Name: value', in quotes")
    return name.strip(), value.strip()
