"""Views of the other pages, on the same Saturday, with data, without any, and with a store that is out of order."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

from keyguard.dashboard import views
from tests.dashboard.pictures import (
    DAY,
    NOW,
    ROUTES,
    causes,
    daily,
    head,
    latest,
    refused,
    requests,
    runs_out,
    shares,
    shell,
    today,
    unused,
)

MARKUP = "<script>alert(1)</script><b title='x\">&amp;"
"""A name that somebody gives a key, to see what happens."""
SERVICE = {
    "served": 418_003, "cached": 61_222, "failed": 31, "credentials": 812, "permission": 402, "address": 55,
    "overload": 1_904, "fault": 120, "usage": 12_877,
}  # fmt: skip


def overview() -> views.Overview:
    spent = requests(SERVICE)
    alerts = (
        views.Alert(
            "a1", "keyguard.limit.threshold", "critical", today("12:26"), subject="Acme nightly sync",
            href="keys/9xQm2ZRa71Lw", limit="16 000/day", number=100,
        ),
        views.Alert(
            "a2", "keyguard.limit.forecast", "warning", today("15:05"), subject="Acme mobile app",
            href="keys/4lVwpQYULJPS", limit="30 000/day",
        ),
        views.Alert("a3", "keyguard.usage.anomaly", "warning", NOW - DAY, subject="globex", text="60, not 9."),
    )  # fmt: skip
    return views.Overview(
        shell=shell("overview", alerts_open=3, operator="ada", log_out=True),
        verdict=views.Verdict("fine", refused=16_170, whole=495_426),
        requests=spent,
        refused=causes(
            spent, usage=NOW, overload=today("12:14"), credentials=NOW - timedelta(minutes=2), permission=NOW,
            fault=today("06:19"), address=today("03:02"),
        ),
        callers=shares(
            ("acme", "globex", "initech", "Ünïcödé GmbH & Co. KG", "anonymous", "other"),
            201_311, 98_402, 60_120, 41_000, 12_003, 5_167,
        ),
        near=(
            replace(daily(16_000, 16_000), key="Acme nightly sync", href="keys/9xQm2ZRa71Lw"),
            replace(daily(30_000, 24_631), key="Acme mobile app", href="keys/4lVwpQYULJPS"),
            views.Limit(
                "key:month", "quota", 1_000_000, "month", used=804_113, renewed_at=NOW + 3 * DAY, key="Globex import",
                href="keys/1",
            ),
        ),
        alerts=alerts,
        routes=shares(ROUTES, 181_002, 120_399, 90_402, 60_001, 20_100, 7_321),
        latest=latest("20/second", 1),
    )  # fmt: skip


def overview_empty() -> views.Overview:
    return views.Overview(
        shell("overview"), views.Verdict("unused"), views.Requests("24h", ()), (), shares(()), (), (), shares(()), ()
    )


def overview_without_ledger() -> views.Overview:
    frame = shell("overview", notices=(views.Notice("no-usage"),), processes=None, hosts=None, every=None)
    return views.Overview(frame, views.Verdict("fine"), None, None, None, None, None, None, None)


def store_down() -> views.OneKey:
    """The store is out of order: what was read at 15:20 is shown."""
    down = views.StoreLight("Redis", up=False, since=today("15:20"))
    frame = shell("keys", store=down, as_of=today("15:20"), notices=(views.Notice("store-down"),))
    return replace(runs_out(), shell=frame, verdict=views.Verdict("store-down", since=today("15:20")))


def keys() -> views.Keys:
    rows = [
        ("Acme nightly sync", "exhausted", 36_317, 10_624, 1.0),
        ("Acme mobile app", "will-run-out", 36_292, 760, 0.82),
        ("Globex trial", "active", 0, 0, 0.0),
        ("Initech reports, which has a name that is far too long for any table", "rotating", 120, 3, 0.004),
        (MARKUP, "disabled", 1, 1, None),
        ("Umbrella", "expired", None, None, None),
        ("Old one", "revoked", None, None, None),
    ]
    return views.Keys(
        shell("keys", root="./"),
        "",
        tuple(
            [
                views.KeyRow(
                    head(name, state, last=None if requests is None else NOW - timedelta(minutes=number * 7)),  # type: ignore[arg-type]
                    f"keys/{number}",
                    requests,
                    refused,
                    used,
                    daily(30_000, 0) if used is not None else None,
                )
                for number, (name, state, requests, refused, used) in enumerate(rows)
            ]
        ),
        more="keys?after=6",
        total=10_204,
    )


def keys_empty() -> views.Keys:
    return views.Keys(shell("keys", root="./"), "", ())


def keys_not_found() -> views.Keys:
    return views.Keys(shell("keys", root="./"), "nobody", (), bounded=True)


def issue() -> views.IssueKey:
    return views.IssueKey(
        shell("keys", reload=0),
        {"owner": "Acme Ltd", "scopes": "read wr!te"},
        {"scopes": "A scope is a word of letters, digits, and . : _ -, such as orders:read."},
        once="0nce",
        plans=("Free", "Pro"),
        scopes=("read", "write"),
    )


def issued() -> views.IssuedKey:
    return views.IssuedKey(
        shell("keys", reload=0, notices=(views.Notice("done", text="issued"),)),
        head("Acme nightly sync", "active"),
        "kg_live_4lVwpQYULJPSx8RbQ1nT6yUe3aZ0cV5dWfGh7JkLm_9pKq",
        "https://api.example.com/",
        "../keys/4lVwpQYULJPS",
    )


def changing(what: str) -> views.OneKey:
    return replace(unused(), shell=shell("keys", reload=0), changing=what, form={"plan": "Pro", "overlap": "24 h"})  # type: ignore[arg-type]


def update() -> views.OneKey:
    return changing("update")


def rotate() -> views.OneKey:
    return changing("rotate")


def revoke() -> views.OneKey:
    return changing("revoke")


def revoked() -> views.OneKey:
    gone = head(
        "Old one", "revoked", revoked_for="leaked in a log", scopes=("read", "write"), networks=("192.0.2.0/24",)
    )
    return replace(unused(), head=gone, verdict=views.Verdict("revoked", since=today("09:12")), quota=None, limits=())


def refusals() -> views.Refusals:
    spent = requests(SERVICE)
    return views.Refusals(
        shell("refusals"),
        "24h",
        "",
        "",
        causes(spent, usage=NOW, overload=today("12:14"), credentials=NOW, permission=NOW, fault=today("06:19")),
        spent,
        (
            *latest("20/second", 1),
            replace(refused("02:00", "credentials", "GET /", "192.0.2.1"), key_id="", reason="unknown"),
        ),
        shares(("Acme nightly sync", "Acme mobile app", "anonymous", "other"), 10_624, 760, 900, 11),
        views.Explained(
            "r152408",
            found=True,
            refused=refused("15:24:08", "usage", "GET /v1/export", "198.51.100.7", by="20/second", wait=1),
            sentences=(
                "The limit of 20 a second was used up; the daily quota was not.",
                "It would have been admitted 0.4 seconds later.",
            ),
        ),
    )


def refusals_empty() -> views.Refusals:
    return views.Refusals(
        shell("refusals"), "1h", "usage", "4lVwpQYULJPS", (), views.Requests("1h", ()), (), shares(()),
        views.Explained("nothing", found=False),
    )  # fmt: skip


def alerts() -> views.Alerts:
    sent = views.Delivery("webhook", "sent", 1, today("12:26"))
    failed = views.Delivery("slack", "failed", 3, today("15:00"), today("15:30"))
    found = overview().alerts or ()
    return views.Alerts(
        shell("alerts", alerts_open=3),
        tuple([replace(one, deliveries=(sent, failed)) for one in found]),
        (
            views.Alert(
                "a0", "keyguard.store.degraded.resolved", "resolved", today("06:12"), until=today("06:20"),
                deliveries=(sent,),
            ),
        ),
        (sent, failed, views.Delivery("ops@example.com", "waiting"), views.Delivery("old webhook", "disabled")),
    )  # fmt: skip


def alerts_empty() -> views.Alerts:
    return views.Alerts(shell("alerts"), (), ())


def alerts_none() -> views.Alerts:
    return views.Alerts(shell("alerts"), None, None)


def cache() -> views.Cache:
    return views.Cache(
        shell("cache"),
        configured=True,
        processes=(
            views.CacheProcess(
                "web-1, 4711", 30_112, 9_120, 204, 81_002, 9_000, 120, 44, 0, 1_204, 18_402_113, 64_000_000
            ),
            views.CacheProcess(
                "web-2, 4712", 31_002, 9_333, 180, 80_113, 9_100, 98, 51, 2, 1_198, 17_902_113, 64_000_000
            ),
        ),
        url="/v1/orders?page=2",
        stored=False,
        why="The response had Set-Cookie, so it may be about one caller.",
    )


def cache_none() -> views.Cache:
    return views.Cache(shell("cache", may_change=False), configured=False, processes=())


def stores() -> views.Stores:
    return views.Stores(
        shell("stores"),
        (
            views.StoreRow("Redis", "decisions", up=True, seconds=0.0004, outages=1, degraded={"limit admitted": 312}),
            views.StoreRow("Redis", "usage", up=True, seconds=0.0011),
            views.StoreRow(
                "PostgreSQL", "values", up=False, since=today("15:12"), outages=3,
                error="connection refused: is the server running on that host and accepting TCP/IP connections?",
            ),
        ),
        (
            views.Process("web-1", 4711, "0.9.0", NOW, up=True),
            views.Process("web-1", 4712, "0.9.0", NOW - timedelta(seconds=2), up=True, health="store out of order"),
            views.Process("web-2", 99, "0.8.2", NOW - timedelta(minutes=12), up=False, dropped=340),
        ),
        (
            views.Rule("api", "key:30000/day", "30 000 a day", "key", (), (), ("Pro",), "refuse"),
            views.Rule("api", "export", "5 a minute", "key", ("GET", "POST"), ("/v1/export", "/v1/**"), None, "admit"),
        ),
    )  # fmt: skip


def stores_empty() -> views.Stores:
    return views.Stores(shell("stores"), (views.StoreRow("memory", "decisions", up=True),), None, ())


def upstream() -> views.Upstream:
    key, limit = views.UpstreamKey, views.Limit
    return views.Upstream(
        shell("upstream", upstream=True),
        (
            views.UpstreamPool(
                "openai",
                (
                    key("eu", "org-a", "gpt-5*", "quota", NOW + timedelta(hours=8)),
                    key("eu", "org-a", "*", "ok"),
                    key("spare", "org-b", "gpt-5*", "billing"),
                    key(MARKUP, "a-group-with-a-long-name-of-a-customer", "*", "invalid"),
                ),
                (
                    limit("rpm", "window", 500, None, 499, paths="gpt-5*", key="org-a"),
                    limit(
                        "tpm (learnt)", "window", 200_000, None, 200_000, key="org-b",
                        back_at=NOW + timedelta(seconds=20),
                    ),
                ),
                waiting=3,
                shared=True,
            ),
            views.UpstreamPool("github", (key("bot", "bot", "", "ok"),), (), waiting=0, shared=False),
        ),
    )  # fmt: skip


def audit() -> views.AuditLog:
    return views.AuditLog(
        shell("audit"),
        (
            views.Change(
                today("15:01:12"), "ada", "keys.update", "acme", href="keys/1", before={"plan": "Free"},
                after={"plan": "Pro"},
            ),
            views.Change(
                today("14:59:40"), "ada", "limits.grant", "acme", "key:30000/day",
                after={"units": "5000", "until": "28 Nov, 18:00"},
            ),
            views.Change(NOW - 3 * DAY, "bob", "keys.revoke", MARKUP, after={"reason": "leaked"}),
        ),
        more="audit?before=3",
    )  # fmt: skip


def audit_empty() -> views.AuditLog:
    return views.AuditLog(shell("audit"), ())


def log_in() -> views.LogIn:
    return views.LogIn(shell("", store=None, may_change=False, processes=None, reload=0), "wrong", "keys")


def problem() -> views.Problem:
    return views.Problem(shell("", store=None, processes=None, reload=0), 403, "csrf", "9f2c1d")


PAGES = (
    overview, overview_empty, overview_without_ledger, store_down, keys, keys_empty, keys_not_found, issue, issued,
    update, rotate, revoke, revoked, refusals, refusals_empty, alerts, alerts_empty, alerts_none, cache, cache_none,
    upstream, stores, stores_empty, audit, audit_empty, log_in, problem,
)  # fmt: skip
