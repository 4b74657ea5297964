"""Sentences: the answer to the first question of a page, and what has happened."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime, timedelta

from keyguard.dashboard.looks.formats import counted, moment, number, share, span
from keyguard.dashboard.looks.limits import named, short
from keyguard.dashboard.looks.words import SPANS, Said, Tone
from keyguard.dashboard.views import Alert, CauseRow, Forecast, Happening, Overview, Requests, Verdict

_SHOWN = 3
"""So many sentences of `keyguard why` stand below the first one; the rest is a click away."""


def verdict(of: Verdict, now: datetime, *, key: bool) -> Said:
    """Return the answer in words: about one key, or about the whole service."""
    words = (
        _VERDICTS[of.kind](of, now) if key or of.kind in ("exhausted", "will-run-out") else _SERVICE[of.kind](of, now)
    )
    if of.kind in ("unused", "will-run-out"):
        return words
    if of.kind == "exhausted" and of.limit and of.since and of.back_at:
        return words._replace(rest=of.sentences[1:])
    if of.sentences:
        first, after = of.sentences[0], of.sentences[1:]
        return Said(words.tone, first, " ".join(after[:_SHOWN]), after[_SHOWN:])
    return words


def service(of: Overview, now: datetime) -> Said:
    """Return how the whole service does: what alerts are about is not in order, whatever else is known."""
    said = verdict(of.verdict, now, key=False)
    if of.verdict.kind != "fine" or of.verdict.sentences or of.alerts == ():
        return said
    if of.alerts is None:
        return said._replace(what="The store answers, and requests are served.")
    latest = max(of.alerts, key=lambda one: one.at)
    about = f"{latest.subject}: {alert(latest, now)}" if latest.subject else alert(latest, now)
    many = len(of.alerts)
    what = f"{counted(many, 'alert')} {'is' if many == 1 else 'are'} open{', the latest' if many > 1 else ''}: {about}."
    return Said("bad" if any(one.level == "critical" for one in of.alerts) else "warn", what, said.more)


def _exhausted(of: Verdict, now: datetime) -> Said:
    what = f"{named(of.limit)} was used up" + (f" at {moment(of.since, now)}." if of.since else ".")
    if of.back_at:
        what += f" The key works again at {moment(of.back_at, now)}, in {span(of.back_at - now)}."
    return Said("bad", what, " ".join(_more(of, now)))


def _runs_out(of: Verdict, now: datetime) -> Said:
    what = f"At this pace {_small(named(of.limit))} runs out"
    if of.likely:
        what += f" at about {moment(of.likely, now)}"
    renewed = of.limit.renewed_at if of.limit else of.back_at
    if renewed and of.likely:
        what += f", {span(renewed - of.likely, short=True)} before it is renewed at {moment(renewed, now)}"
    return Said("warn", f"{what}.", " ".join(_more(of, now)))


def _more(of: Verdict, now: datetime) -> Iterator[str]:
    """Tell the range, who has spent it, what was refused, and whether the two counts agree."""
    if of.earliest and of.latest:
        yield f"Likely between {moment(of.earliest, now)} and {moment(of.latest, now)}."
    elif of.earliest:
        yield f"At the earliest at {moment(of.earliest, now)}, or not before it is renewed."
    if of.busiest and of.whole:
        doubled = f", which has more than doubled since {moment(of.doubled_since, now)}" if of.doubled_since else ""
        yield f"{share(of.busiest.count / of.whole)} went to {of.busiest.name}{doubled}."
    if of.refused:
        yield f"{counted(of.refused, 'request')} {'was' if of.refused == 1 else 'were'} refused since."
    if of.agree:
        yield "The counter and the ledger agree."
    elif of.agree is False:
        yield (
            f"The counter and the ledger differ by {number(abs(of.difference))}: "
            "the key may be refused although its owner has not spent that."
        )


def _at(text: str, tone: Tone, more: str = "") -> Callable[[Verdict, datetime], Said]:
    """Return a sentence that tells since when, if that is known: `{at}` or `{since}` in the text."""

    def words(of: Verdict, now: datetime) -> Said:
        when = moment(of.since, now) if of.since else ""
        words = {word: f" {word} {when}" if when else "" for word in ("at", "since")}
        return Said(tone, text.format(**words), more)

    return words


def _pending(of: Verdict, now: datetime) -> Said:
    return Said(
        "warn", f"This key works from {moment(of.back_at, now)} on." if of.back_at else "This key is not valid yet."
    )


def _fine(of: Verdict, now: datetime) -> Said:
    return Said("good", "This key works, and none of its limits is near its end.", " ".join(_more(of, now)))


_DOWN = "Nobody’s key is exhausted by that. Requests are decided as each guard’s setting says."
_VERDICTS: Mapping[str, Callable[[Verdict, datetime], Said]] = {
    "fine": _fine,
    "unused": _at(
        "This key has not been used yet.",
        "good",
        "Its limits are whole. Usage appears here within seconds of the first request.",
    ),
    "will-run-out": _runs_out,
    "exhausted": _exhausted,
    "revoked": _at("This key was revoked{at}. It works nowhere.", "bad", "Its owner needs another one."),
    "disabled": _at("This key is switched off{since}.", "bad", "It works again as soon as it is switched on."),
    "expired": _at("This key expired{at}.", "bad", "Give it a later end, or issue another one."),
    "pending": _pending,
    "store-down": _at("The store is out of order{since}.", "bad", _DOWN),
    "unknown": _at("It is not known now whether this key works.", "quiet"),
}  # fmt: skip


def _service_fine(of: Verdict, now: datetime) -> Said:
    refused = f"{counted(of.refused, 'request')} refused, of {number(of.whole)}." if of.whole else ""
    return Said("good", "Everything is in order, and no limit is near its end.", refused)


_SERVICE: Mapping[str, Callable[[Verdict, datetime], Said]] = {
    **_VERDICTS,
    "fine": _service_fine,
    "unused": _at(
        "No requests yet.", "good", "All is ready. Usage appears here within seconds of the first request."
    ),
    "unknown": _at("It is not known how the service does.", "quiet"),
}  # fmt: skip


_UNUSUAL = "Far more requests than usual"


def happened(of: Happening, now: datetime) -> tuple[str, str]:
    """Return what has happened, and a mark beside it, which may be empty."""
    return _EVENTS.get(of.kind, _other)(of, now), _mark(of, now)


def _threshold(of: Happening, now: datetime) -> str:
    part = share((100 if of.number is None else of.number) / 100)
    return f"{part} of {short(of.limit)} used" if of.limit else f"{part} used"


def _anomaly(of: Happening, now: datetime) -> str:
    pace = _UNUSUAL
    if of.number is not None and of.number >= 180:
        times = round(of.number / 100)
        pace = "Pace doubled" if times == 2 else f"Pace {times} times the usual"
    return f"{pace}: {of.text}" if " /" in of.text else pace  # a route; else it says the same in more words


def _lasting(what: str) -> Callable[[Happening, datetime], str]:
    def words(of: Happening, now: datetime) -> str:
        lasted = f" for {span(of.until - of.at, long=True)}" if of.until else ""
        shed = f", {share(of.number / 100)} shed" if of.number is not None else ""
        if shed:
            return f"{what}: {lasted.removeprefix(' for ') or 'still'}{shed}"
        return f"{what}{lasted}"

    return words


def _renewed(of: Happening, now: datetime) -> str:
    words = named(of.limit).removeprefix("The ") if of.limit else "Quota"
    return f"{words.split(' of ')[0].capitalize()} renewed"


def _forecast(of: Happening, now: datetime) -> str:
    return f"Will run out{f': {short(of.limit)}' if of.limit else ''}"


def _key(of: Happening, now: datetime) -> str:
    return f"Key {of.text}"


def _other(of: Happening, now: datetime) -> str:
    return of.text


_EVENTS: Mapping[str, Callable[[Happening, datetime], str]] = {
    "threshold": _threshold,
    "exhausted": _threshold,
    "renewed": _renewed,
    "forecast": _forecast,
    "anomaly": _anomaly,
    "store": _lasting("Store out of order"),
    "overload": _lasting("Too busy"),
    "key": _key,
}


def _mark(of: Happening, now: datetime) -> str:
    if of.delivery == "failed":
        return f"{of.channel} failed" + (f", again {moment(of.again_at, now)}" if of.again_at else "")
    return {"sent": f"{of.channel} sent", "waiting": f"{of.channel} waits"}.get(of.delivery, of.delivery)


def alert(of: Alert, now: datetime) -> str:
    """Return what an alert is about, in a few words."""
    kind = of.type.removeprefix("keyguard.").removesuffix(".resolved")
    limit = f" of {of.limit}" if of.limit else ""
    return {
        "limit.threshold": f"{share((of.number or 0) / 100)}{limit} used",
        "limit.forecast": f"Will run out{f': {of.limit}' if of.limit else ''}",
        "usage.anomaly": _UNUSUAL,
        "store.degraded": "Store out of order",
        "overload": "Too busy",
        "upstream.key.exhausted": "Upstream limit reached",
        "upstream.key.invalid": "Upstream key not valid",
        "upstream.group.billing": "Upstream has to be paid",
        "upstream.pool.exhausted": "No upstream key left",
    }.get(kind, of.text or of.type)


def forecast(of: Forecast, now: datetime) -> str:
    """Return when a quota runs out: `runs out 17:42–19:17`."""
    if of.likely is None:
        return "not before it is renewed"
    if of.earliest and of.latest:
        return f"runs out {moment(of.earliest, now)}–{moment(of.latest, now)}"
    return f"runs out {moment(of.earliest or of.likely, now)} or later"


def refused(rows: Iterable[CauseRow], of: Requests | None) -> str:
    """Return how many requests were refused, and of how many: `760 of 36 292 in 24 h`."""
    count = number(sum(row.requests for row in rows))
    if of is None:
        return count
    return f"{count} of {number(sum(sum(bucket.counts.values()) for bucket in of.buckets))} in {SPANS[of.span][0]}"


def today(of: Iterable[Happening], now: datetime) -> bool:
    """Return whether all of it has happened today, so that no day need be told."""
    return all(one.at.date() == now.date() for one in of)


def lasted(begin: datetime, end: datetime | None, now: datetime) -> str:
    """Return how long something has lasted, or goes on."""
    return span((end or now) - begin) if end or now > begin else span(timedelta(0))


def _small(words: str) -> str:
    return words[:1].lower() + words[1:]
