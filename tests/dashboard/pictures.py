"""Views with data as on a busy Saturday: a key that runs out, one that has run out, one that nobody has used."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from math import exp, sin

from keyguard.dashboard import views

NOW = datetime(2026, 11, 28, 15, 24, 10, tzinfo=UTC)
MIDNIGHT = NOW.replace(hour=0, minute=0, second=0)
QUARTER = timedelta(minutes=15)
DAY = timedelta(days=1)


def today(text: str) -> datetime:
    hours, minutes, *seconds = map(int, text.split(":"))
    return MIDNIGHT + timedelta(hours=hours, minutes=minutes, seconds=sum(seconds))


def shell(here: views.Section = "keys", **more: object) -> views.Shell:
    given = views.Shell(
        here=here,
        root="../" if here == "keys" else "./",
        now=NOW,
        store=views.StoreLight("Redis", up=True, seconds=0.0004),
        may_change=True,
        csrf="c5rf",
        processes=4,
        hosts=2,
        every=timedelta(seconds=2),
    )
    return replace(given, **more)  # type: ignore[arg-type]


LEVELS = (
    (-8.5, 490), (-7, 400), (-6, 280), (-5, 210), (-4, 160), (0, 140), (4, 130), (6, 180), (7, 230), (8, 300),
    (8.5, 450), (8.75, 680), (9.75, 700), (10, 860), (11, 910), (12, 940), (13, 880), (14, 900), (16, 810),
)  # fmt: skip
"""Requests in a quarter of an hour, by the hour of today."""


def busy(hour: float) -> float:
    after = next(place for place, (at, _) in enumerate(LEVELS) if at > hour)
    (left, low), (right, high) = LEVELS[after - 1 : after + 1]
    return low + (high - low) * (hour - left) / (right - left)


def counts_of(number: int, at: datetime, exhausted: datetime | None) -> dict[str, float]:
    whole = busy((at - MIDNIGHT) / timedelta(hours=1)) * (1 + 0.05 * sin(number * 2.4) + 0.03 * sin(number * 7.7))
    counts = {"cached": whole * 0.12, "usage": whole * 0.012, "permission": whole * 0.0034}
    if at == today("12:00"):
        counts["overload"] = 159
    if at in (today("06:00"), today("06:15")):
        counts["fault"] = 34 if at == today("06:15") else 9
    if exhausted and at + QUARTER > exhausted:
        counts = {"usage": whole if at >= exhausted else whole / 4, "cached": 0 if at >= exhausted else whole * 0.1}
    counts["served"] = 0 if exhausted and at >= exhausted else whole - sum(counts.values())
    return {kind: count * (0.62 if at == today("15:15") else 1) for kind, count in counts.items()}


def requests(totals: dict[str, int], *, exhausted: datetime | None = None, span: views.Span = "24h") -> views.Requests:
    """The last 24 hours in quarters; each kind sums up to what is wanted."""
    begins = [today("15:30") - DAY + number * QUARTER for number in range(96)]
    drawn = [counts_of(number, at, exhausted) for number, at in enumerate(begins)]
    found: list[dict[str, int]] = [{} for _ in begins]
    for kind, total in totals.items():
        if not any(kind in counts for counts in drawn):
            for counts in drawn:
                counts[kind] = counts["served"]
        whole, before, so_far = sum(counts.get(kind, 0) for counts in drawn), 0, 0.0
        for counts, rounded in zip(drawn, found, strict=True):
            so_far += counts.get(kind, 0)
            rounded[kind] = round(total * so_far / whole) - before
            before += rounded[kind]
    return views.Requests(
        span,
        tuple(
            [
                views.Bucket(at, QUARTER, one, finished=at + QUARTER <= NOW)
                for at, one in zip(begins, found, strict=True)
            ]
        ),
    )


def daily(limit: int, used: int) -> views.Limit:
    return views.Limit("key:day", "quota", limit, "day", used=used, renewed_at=MIDNIGHT + DAY)


def limits(quota: views.Limit, second: int, at_once: int, peak: int = 20, most: int = 3) -> tuple[views.Limit, ...]:
    return (
        quota,
        views.Limit("key:20/second", "window", 20, timedelta(seconds=1), used=second, peak=peak),
        views.Limit("key:4 at once", "at-once", 4, None, used=at_once, peak=most),
    )


def curve(of: views.Requests, limit: views.Limit) -> tuple[views.Point, ...]:
    """What was spent by then: what was served today, up to all that was spent by now."""
    spent, points = 0, [(MIDNIGHT, 0)]
    for bucket in of.buckets:
        if bucket.at >= MIDNIGHT:
            spent += bucket.counts["served"] + bucket.counts["cached"]
            points.append((min(bucket.at + bucket.span, NOW), spent))
    return tuple([views.Point(at, round((limit.used or 0) * part / spent)) for at, part in points])


def forecast(used: int) -> views.Forecast:
    """A pace that falls in the evening."""
    points = []
    for step in range(1, 36):
        at = min(NOW + step * QUARTER, MIDNIGHT + DAY)
        hours = (at - NOW) / timedelta(hours=1)
        more = 4101 * (1 - exp(-hours / 1.5)) + 649 * hours
        points.append(views.Guess(at, int(used + 0.86 * more), int(used + more), int(used + 1.14 * more)))
    return views.Forecast(tuple(points), today("17:42"), today("18:17"), today("19:17"))


ROUTES = (
    "GET /v1/export",
    "GET /v1/orders/{id}",
    "GET /v1/orders",
    "POST /v1/orders",
    "GET /v1/customers/{id}",
    "other",
)
ADDRESSES = ("198.51.100.7", "198.51.100.8", "203.0.113.40", "2001:db8:7::/64", "192.0.2.19")


def shares(names: tuple[str, ...], *counts: int) -> views.Shares:
    return views.Shares(tuple([views.Share(*row) for row in zip(names, counts, strict=True)]), sum(counts))


def head(name: str, state: views.KeyState, **more: object) -> views.KeyHead:
    given = views.KeyHead(
        key_id="4lVwpQYULJPS",
        shown="kg_live_4lVwpQYULJPS…",
        name=name,
        owner="Acme Ltd",
        subject="acme",
        plan="Pro",
        scopes=(),
        state=state,
        created=NOW - 90 * DAY,
        last=NOW - timedelta(seconds=3),
        last_known=True,
    )
    return replace(given, **more)  # type: ignore[arg-type]


def refused(at: str, cause: str, request: str, client: str, *, by: str = "", wait: int | None = None) -> views.Refused:
    method, route = request.split(" ")
    return views.Refused(
        today(at),
        request_id=f"r{at.replace(':', '')}",
        cause=cause,
        reason=cause if cause == "overload" else by,
        policies=(by,) if cause == "usage" else (),
        method=method,
        route=route,
        client=client,
        retry_after=None if wait is None else timedelta(seconds=wait),
        key_id="4lVwpQYULJPS",
        key_name="Acme mobile app",
        href="../keys/4lVwpQYULJPS",
    )


def latest(limit: str, wait: int) -> tuple[views.Refused, ...]:
    return (
        refused("15:24:08", "usage", "GET /v1/export", "198.51.100.7", by=limit, wait=wait),
        refused("15:23:51", "usage", "GET /v1/export", "198.51.100.7", by=limit, wait=wait),
        refused("15:19:02", "permission", "POST /v1/orders", "203.0.113.40", by="scope-write"),
        refused("12:13:47", "overload", "GET /v1/orders", "198.51.100.8", wait=4),
        refused("06:18:59", "fault", "GET /v1/orders/{id}", "198.51.100.8", by="store-failed", wait=1),
    )


def causes(of: views.Requests, **last: datetime) -> tuple[views.CauseRow, ...]:
    sums = {kind: sum(bucket.counts.get(kind, 0) for bucket in of.buckets) for kind in last}
    return tuple([views.CauseRow(kind, sums[kind], at) for kind, at in last.items()])


def runs_out() -> views.OneKey:
    quota = daily(30_000, 24_631)
    spent = requests({"served": 31_247, "cached": 4_285, "permission": 125, "overload": 159, "fault": 43, "usage": 433})
    return views.OneKey(
        shell=shell(),
        head=head("Acme mobile app", "will-run-out"),
        verdict=views.Verdict(
            "will-run-out",
            limit=quota,
            earliest=today("17:42"),
            likely=today("18:17"),
            latest=today("19:17"),
            busiest=views.Share("GET /v1/export", 11_269),
            whole=24_631,
            doubled_since=today("08:40"),
        ),
        quota=views.Quota(
            quota,
            MIDNIGHT,
            MIDNIGHT + DAY,
            curve(spent, quota),
            24_631,
            forecast=forecast(24_631),
        ),
        limits=limits(quota, 7, 2),
        requests=spent,
        refused=causes(
            spent, usage=NOW - timedelta(minutes=3), overload=today("12:14"), permission=NOW, fault=today("06:19")
        ),
        happened=(
            views.Happening(today("15:05"), "threshold", "warning", 80, quota, delivery="sent"),
            views.Happening(today("12:02"), "overload", "critical", 22, until=today("12:14")),
            views.Happening(today("08:40"), "anomaly", "warning", 200, text="GET /v1/export", delivery="anomaly"),
            views.Happening(today("06:12"), "store", "critical", until=today("06:20"), delivery="recovered"),
            views.Happening(today("00:00"), "renewed", limit=quota),
        ),
        routes=shares(ROUTES, 11_269, 6_620, 3_553, 2_006, 953, 230),
        addresses=shares(ADDRESSES, 12_808, 5_173, 3_448, 1_970, 1_232),
        latest=latest("20/second", 1),
        example_url="https://api.example.com/",
    )


def used_up() -> views.OneKey:
    quota = daily(16_000, 16_000)
    spent = requests(
        {"served": 22_616, "cached": 3_077, "permission": 90, "overload": 159, "fault": 43, "usage": 10_332},
        exhausted=today("12:26"),
    )
    return replace(
        runs_out(),
        head=head("Acme nightly sync", "exhausted", last=NOW),
        verdict=views.Verdict(
            "exhausted",
            limit=quota,
            since=today("12:26"),
            back_at=MIDNIGHT + DAY,
            busiest=views.Share("GET /v1/export", 7_286),
            whole=16_000,
            refused=10_332,
            agree=True,
        ),
        quota=views.Quota(quota, MIDNIGHT, MIDNIGHT + DAY, curve(spent, quota), 16_000, used_up_at=today("12:26")),
        limits=limits(quota, 0, 0),
        requests=spent,
        refused=causes(spent, usage=NOW, overload=today("12:14"), permission=today("12:25"), fault=today("06:19")),
        happened=(
            views.Happening(today("12:26"), "exhausted", "critical", 100, quota, delivery="sent"),
            views.Happening(today("11:52"), "threshold", "warning", 90, delivery="sent"),
            views.Happening(today("11:18"), "threshold", "warning", 80, delivery="failed", again_at=today("15:30")),
            views.Happening(today("08:40"), "anomaly", "warning", 200, text="GET /v1/export", delivery="anomaly"),
            views.Happening(today("06:12"), "store", "critical", until=today("06:20"), delivery="recovered"),
            views.Happening(today("00:00"), "renewed", limit=quota),
        ),
        routes=shares(ROUTES, 7_286, 4_382, 2_243, 1_312, 633, 144),
        addresses=shares(ADDRESSES, 8_320, 3_360, 2_240, 1_280, 800),
        latest=latest("16 000/day", 8 * 3600 + 36 * 60),
    )


def unused() -> views.OneKey:
    quota = daily(50_000, 0)
    return replace(
        runs_out(),
        head=head("Globex trial", "active", shown="kg_live_9xQm2ZRa71Lw…", last=None),
        verdict=views.Verdict("unused"),
        quota=views.Quota(quota, MIDNIGHT, MIDNIGHT + DAY, (views.Point(MIDNIGHT, 0), views.Point(NOW, 0)), 0),
        limits=limits(quota, 0, 0, 0, 0),
        requests=views.Requests("24h", ()),
        refused=(),
        happened=(),
        routes=shares(()),
        addresses=shares(()),
        latest=(),
    )
