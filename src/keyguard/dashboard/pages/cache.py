"""The response cache of each process, and why the last response for a URL was stored or was not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from os import getpid

from keyguard.dashboard.answers import Outcome, Shown
from keyguard.dashboard.pages.usage import report_of, requests_of
from keyguard.dashboard.reading import Reading
from keyguard.dashboard.views import Cache, CacheProcess, Notice
from keyguard.errors import ConfigurationError
from keyguard.usage import host_name

_COUNTS = ("hits", "misses", "stale", "bypassed", "stored", "not_stored", "evicted", "errors", "entries", "bytes",
           "max_bytes")  # fmt: skip
_MOST = 100
_LONGEST = 2000


def cache(reading: Reading, errors: Mapping[str, str] | None = None, done: Notice | None = None) -> Outcome:
    """Show the cache."""
    reading.look_around()
    responses = reading.service.cache
    shell = reading.shell("cache", done=done)
    if responses is None:
        return Shown(Cache(shell, False, ()))
    processes = reading.ledger(lambda usage: usage.processes())
    if processes is None:
        mine = _process(f"{host_name()}, {getpid()}", asdict(responses.stats()))
        page = Cache(shell, True, (mine,))
    else:
        rows = [_process(f"{one.host}, {one.pid}", one.cache) for one in processes if one.cache and not one.vanished]
        page = Cache(shell, True, tuple(rows[:_MOST]))
    report = report_of(reading, None, "24h")
    if report is not None:
        page = replace(page, requests=requests_of(report, "24h"))
    url = reading.asked.query.get("url", "").strip()[:_LONGEST]
    if url:
        try:
            found = responses.explain(url)
            page = replace(page, url=url, stored=found.stored, why=str(found))
        except (ValueError, ConfigurationError) as error:
            page = replace(page, url=url, why=str(error))
    return Shown(replace(page, errors=errors or {}))


def _process(name: str, counts: Mapping[str, int]) -> CacheProcess:
    return CacheProcess(name, **{each: counts.get(each, 0) for each in _COUNTS})


def purge(reading: Reading) -> Outcome:
    """Take entries out of the cache, as a form asks for: by their tag, or by a URL."""
    responses = reading.service.cache
    if responses is None:
        return reading.problem(404, "not-found")
    form = reading.asked.form
    url, tag = form.get("url", ""), form.get("tag", "")
    if bool(url) == bool(tag):
        return _again(reading, {"": "Name a URL or a tag."})
    try:
        responses.purge(url or None, tag=tag or None, actor=reading.actor)
    except (ValueError, ConfigurationError) as error:
        return _again(reading, {"url" if url else "tag": str(error)})
    return cache(reading, done=Notice("done", text="purged"))


def _again(reading: Reading, errors: Mapping[str, str]) -> Outcome:
    outcome = cache(reading, errors)
    assert isinstance(outcome, Shown)
    return outcome._replace(status=422)
