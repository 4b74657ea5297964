"""The table of requests: what is sent, to which stack, and what must come back, in every world and framework."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from keyguard import APIKeys, Ban, Identity, IPFilter, Keyguard, Overload, RateLimit, credits, quota, smooth
from keyguard.keys import KeyRegistry
from keyguard.ops import CompareAndSet
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock
from tests.support.harness import Ask


@dataclass(frozen=True)
class Row:
    """One case: the requests of `before`, then `ask`, whose answer is looked at."""

    name: str
    stack: str
    ask: Ask
    status: int
    before: tuple[Ask, ...] = ()
    has: dict[str, str | None] = field(default_factory=dict)
    """Header fields of the answer; `None` for one that must not be there."""
    cause: str | None = None
    says: str | None = None
    """Words in the body."""
    wait: float = 0
    """Seconds between what came before and the request."""


# -- stacks -----------------------------------------------------------------------------------------------------


def lookup(key: str) -> Identity | None:
    return {"ada-key": Identity("ada", key_id="ada-1", plan="free", scopes=frozenset({"read"}))}.get(key)


def full() -> Overload:
    """A guard against overload with as many requests in flight as may be."""
    overload = Overload(health=["/health"], random=lambda: 0.0)
    while overload.limit.begin(1.0):
        pass
    return overload


STACKS: dict[str, Callable[..., Keyguard]] = {
    "overload": lambda **o: Keyguard(RateLimit("1/minute", by="ip"), full(), APIKeys(public=["/health"]), **o),
    "keys": lambda **o: Keyguard(APIKeys(public=["/health", "/docs/*"], guesses="3/minute"), **o),
    "guarded look-up": lambda **o: Keyguard(
        APIKeys(lookup=lookup, guesses="2/minute", guess_exempt=["192.0.2.0/24"]), **o
    ),
    "uncounted": lambda **o: Keyguard(APIKeys(lookup=lookup, guesses=None), **o),
    "every env": lambda **o: Keyguard(APIKeys(env=None), **o),
    "preflights": lambda **o: Keyguard(
        RateLimit("5/minute", by="ip"),
        APIKeys(preflights=True, public=["/health"]),
        RateLimit("2/minute", by="key"),
        RateLimit("3/minute", by="ip", name="inside"),
        **o,
    ),
    "no preflights": lambda **o: Keyguard(APIKeys(preflights=False), **o),
    "optional": lambda **o: Keyguard(APIKeys(optional=True), RateLimit("2/minute", by="key"), **o),
    "scopes": lambda **o: Keyguard(
        APIKeys(lookup=lookup, scopes=lambda r: ["read"] if r.method == "GET" else ["write"]), **o
    ),
    "places": lambda **o: Keyguard(APIKeys(lookup=lookup, sources=["authorization", "cookie:key", "query:key"]), **o),
    "full": lambda **o: Keyguard(
        IPFilter(deny=["203.0.113.0/24", "2001:db8:bad::/48"]),
        APIKeys(public=["/health"]),
        RateLimit("2/10 seconds; 100/day", by="key"),
        **o,
    ),
    "ip": lambda **o: Keyguard(RateLimit("2/minute", by="ip"), **o),
    "by key": lambda **o: Keyguard(APIKeys(), RateLimit("2/minute", by="key"), **o),
    "smooth": lambda **o: Keyguard(RateLimit(smooth("1/second", burst=2)), **o),
    "cost": lambda **o: Keyguard(RateLimit("10/minute", cost=lambda r: int(r.raw_query or b"1")), **o),
    "quota": lambda **o: Keyguard(RateLimit("9/minute", quota("2/month", tz="Europe/Berlin", anchor=15)), **o),
    "credits": lambda **o: Keyguard(APIKeys(lookup=lookup), RateLimit(credits(2), by="key", name="renders"), **o),
    "fields of GitHub": lambda **o: Keyguard(RateLimit("2/minute", quota("3/month"), headers="github"), **o),
    "old fields": lambda **o: Keyguard(RateLimit("2/minute; 50/hour", headers="x-ratelimit"), **o),
    "scope": lambda **o: Keyguard(RateLimit("1/minute", paths=["/items/{id}"], methods=["POST"]), **o),
    "reads": lambda **o: Keyguard(RateLimit("1/minute", methods=["GET"]), **o),
    "two limits": lambda **o: Keyguard(RateLimit("5/minute", by="ip"), RateLimit("1/minute", name="tight"), **o),
    "allow": lambda **o: Keyguard(IPFilter(allow=["198.51.100.0/24", "2001:db8::/32"]), **o),
    "admin": lambda **o: Keyguard(IPFilter(allow=["10.0.0.0/8"], paths=["/admin/*"]), **o),
    "proxied": lambda **o: Keyguard(
        IPFilter(deny=["203.0.113.0/24"]), RateLimit("1/minute", by="ip"), trusted_proxies=["10.0.0.0/8", "unix"], **o
    ),
    "bans": lambda **o: Keyguard(
        Ban(after="2/minute", for_="90 seconds", growing=True, exempt=["192.0.2.0/24"]),
        APIKeys(guesses=None),
        trusted_proxies=["10.0.0.0/8"],
        **o,
    ),
    "forwarded": lambda **o: Keyguard(
        IPFilter(allow=["198.51.100.0/24"]), trusted_proxies=["10.0.0.0/8"], forwarded_header="forwarded", **o
    ),
}


class Stacks:
    """The stacks, each made twice, alike: one for each world, with the same keys and the same clock."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.keys: dict[str, str] = {}

    def pair(self, name: str) -> tuple[Keyguard, Keyguard]:
        stores = [MemoryStore(clock=self.clock) for _ in range(2)]
        one, other = (STACKS[name](store=store, clock=self.clock) for store in stores)
        if any(isinstance(guard, APIKeys) and guard.lookup is None for guard in one.guards):
            entries, self.keys = _issued(name)
            for store in stores:
                store.execute([CompareAndSet({key: None}, {key: value}) for key, value in entries])
        return one, other

    def fill(self, ask: Ask) -> Ask:
        """The request with `{good}` and the like replaced by keys, and a fixed id."""

        def filled(value: str | bytes) -> str | bytes:
            if isinstance(value, str) and "{" in value:
                for name, key in self.keys.items():
                    value = value.replace("{" + name + "}", key)
            return value

        headers = tuple((name, filled(value)) for name, value in ask.headers)
        return Ask(**{**vars(ask), "headers": (*headers, ("X-Request-ID", "row-1")), "target": str(filled(ask.target))})


@cache
def _issued(name: str) -> tuple[list[tuple[str, bytes]], dict[str, str]]:
    """The keys of a stack, issued at the time at which all begin, and what its store holds of them then."""
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    registry = STACKS[name](store=store, clock=clock).keys
    registry._clock = clock
    issued = {
        "good": registry.issue("acme", plan="pro"),
        "other": registry.issue("other"),
        "revoked": registry.issue("gone"),
        "network": registry.issue("office", networks=["192.0.2.0/24"]),
        "test": registry.issue("tester", env="test"),
        "foreign": KeyRegistry(store, prefix="acme", clock=clock).issue("elsewhere"),
    }
    registry.revoke(issued["revoked"].record.id)
    keys = {name: key.key.reveal() for name, key in issued.items()}
    good = keys["good"]
    keys["typo"] = good[:-1] + ("a" if good[-1] != "a" else "b")
    keys["wrong"] = _other_secret(good)
    return list(store.scan("")), keys


def _other_secret(key: str) -> str:
    """A well-formed key with the same id and another secret."""
    from keyguard.keys.format import CHECKSUM_LENGTH, _checksum

    body = key[:-CHECKSUM_LENGTH]
    body = body[:-1] + ("x" if body[-1] != "x" else "y")
    return body + _checksum(body)


# -- rows -------------------------------------------------------------------------------------------------------


def get(target: str = "/", *headers: tuple[str | bytes, str | bytes], **more: Any) -> Ask:
    return Ask(target, headers, **more)


def with_key(name: str, target: str = "/", *headers: tuple[str | bytes, str | bytes], **more: Any) -> Ask:
    return get(target, ("X-API-Key", "{" + name + "}"), *headers, **more)


GOOD = with_key("good")
BAD = with_key("wrong")
CHALLENGE = 'Bearer realm="api"'
INVALID = CHALLENGE + ', error="invalid_token"'
NOT_VALID = "The API key is not valid."
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZGEifQ.c2lnbmF0dXJl"


def preflight(*headers: tuple[str | bytes, str | bytes], **more: Any) -> Ask:
    asked = (("Origin", "https://a.test"), ("Access-Control-Request-Method", "PUT"))
    return get("/", *asked, *headers, method="OPTIONS", **more)


PREFLIGHT = preflight()
LEFT_OF_5 = '"ip:5/minute";r=4;t=60'


def peer(address: str | None, forwarded: str | None = None, name: str = "X-Forwarded-For", **more: Any) -> Ask:
    headers = () if forwarded is None else ((name, forwarded),)
    return Ask("/", headers, client=address, **more)


ROWS = [
    # -- keys: presented and not
    Row("no key", "keys", get(), 401, cause="credentials", has={"www-authenticate": CHALLENGE, "retry-after": None}),
    Row("a good key", "keys", GOOD, 200),
    Row("a good key as Bearer", "keys", get("/", ("Authorization", "Bearer {good}")), 200),
    Row("the scheme in other letters", "keys", get("/", ("Authorization", "bEARER  {good}")), 200),
    Row("another scheme is not ours", "keys", get("/", ("Authorization", "Basic dTpw")), 401, has={"www-authenticate": CHALLENGE}),
    Row("the same key in two places", "keys", get("/", ("X-API-Key", "{good}"), ("Authorization", "Bearer {good}")), 200),
    Row("two different keys", "keys", get("/", ("X-API-Key", "{good}"), ("Authorization", "Bearer {other}")), 400, cause="request"),
    Row("two lines, two keys", "keys", get("/", ("X-API-Key", "{good}"), ("X-API-Key", "{other}")), 400, cause="request"),
    Row("two lines, one key", "keys", get("/", ("X-API-Key", "{good}"), ("X-API-Key", "{good}")), 200),
    Row("two keys in one line", "keys", get("/", ("X-API-Key", "{good},{other}")), 400, cause="request"),
    Row("a good and an empty key", "keys", get("/", ("X-API-Key", "{good}"), ("X-API-Key", "")), 400, cause="request"),
    Row("an empty key", "keys", get("/", ("X-API-Key", "")), 401, has={"www-authenticate": INVALID}),
    Row("Bearer and nothing", "keys", get("/", ("Authorization", "Bearer")), 401, has={"www-authenticate": INVALID}),
    Row("an unknown key", "keys", get("/", ("X-API-Key", "nonsense")), 401, says=NOT_VALID),
    Row("a mistyped key", "keys", with_key("typo"), 401, says=NOT_VALID),
    Row("the right id, the wrong secret", "keys", BAD, 401, says=NOT_VALID, has={"www-authenticate": INVALID}),
    Row("a revoked key", "keys", with_key("revoked"), 401, says=NOT_VALID),
    Row("a key of a megabyte", "keys", get("/", ("X-API-Key", "k" * 2**20)), 401),
    Row("a key of bytes that are no text", "keys", get("/", ("X-API-Key", b"\xff\xfe\x80")), 401),
    Row("a key with blanks inside", "keys", get("/", ("X-API-Key", "{good} {good}")), 401),
    Row("a key with a tab", "keys", get("/", ("X-API-Key", "{good}\t")), 200),
    Row("a name with underscores is another name", "keys", get("/", ("Key", "{good}")), 401),
    Row("twenty thousand headers", "keys", get("/", *[(f"x-{n}", "v") for n in range(20_000)], ("X-API-Key", "{good}")), 200),
    Row("headers that are no text", "keys", get("/", (b"x-odd", b"\x80\xff"), ("X-API-Key", "{good}")), 200),
    Row("in the query nothing is looked for", "keys", get("/?api_key={good}&key={good}"), 401, has={"www-authenticate": CHALLENGE}),
    Row("a key with its networks, elsewhere", "keys", with_key("network"), 403, cause="address"),
    Row("a key with its networks, there", "keys", with_key("network", client="192.0.2.9"), 200),
    # -- places a key may stand in
    Row("in a cookie", "places", get("/", ("Cookie", "a=b; key=ada-key; c")), 200),
    Row("in the query", "places", get("/?a=b&key=ada-key"), 200),
    Row("in the query, encoded", "places", get("/?%6bey=ada%2Dkey"), 200),
    Row("in cookie and query, different", "places", get("/?key=other", ("Cookie", "key=ada-key")), 400),
    Row("a place that is not asked", "places", get("/", ("X-API-Key", "ada-key")), 401),
    # -- guessing
    Row("the fourth guess is not heard", "keys", BAD, 429, (BAD, BAD, BAD), cause="address", has={"retry-after": "60"}, says="Too many wrong"),
    Row("nor a fifth one of another form", "keys", with_key("typo"), 429, (BAD, BAD, BAD, BAD), cause="address"),
    Row("but a right key is, whatever its neighbours send", "keys", GOOD, 200, (BAD,) * 5),
    Row("and a key that was in use", "keys", GOOD, 200, (GOOD, BAD, BAD, BAD)),
    Row("from another address guesses are", "keys", with_key("wrong", client="198.51.100.2"), 401, (BAD, BAD, BAD)),
    Row("a /64 is one address", "keys", with_key("wrong", client="2001:db8::9"), 429, tuple(with_key("wrong", client=f"2001:db8::{n}") for n in range(3))),
    Row("mistyped keys are guesses too", "keys", BAD, 429, (with_key("typo"),) * 3),
    Row("revoked keys are guesses too", "keys", BAD, 429, (with_key("revoked"),) * 3),
    Row("right keys are no guesses", "keys", BAD, 401, (GOOD, with_key("other"), with_key("network", client="192.0.2.1")) * 5),
    Row("after a minute guesses are heard again", "keys", BAD, 401, (BAD, BAD, BAD), wait=60),
    Row("a look-up is not asked about more guesses", "guarded look-up", get("/", ("X-API-Key", "ada-key")), 429, (get("/", ("X-API-Key", "eve-key")),) * 2, cause="address"),
    Row("an empty key is one", "guarded look-up", get("/", ("X-API-Key", "ada-key")), 429, (get("/", ("X-API-Key", "")),) * 2),
    Row("in a network that is exempt nothing is counted", "guarded look-up", get("/", ("X-API-Key", "ada-key"), client="192.0.2.1"), 200, (get("/", ("X-API-Key", "eve-key"), client="192.0.2.1"),) * 5),
    Row("nor where nothing is to be", "uncounted", get("/", ("X-API-Key", "eve-key")), 401, (get("/", ("X-API-Key", "eve-key")),) * 5),
    # -- a token of the app's own, beside a key or alone
    Row("a JWT beside a key", "keys", get("/", ("Authorization", f"Bearer {JWT}"), ("X-API-Key", "{good}")), 200),
    Row("in the other order", "keys", get("/", ("X-API-Key", "{good}"), ("Authorization", f"Bearer {JWT}")), 200),
    Row("two lines, a JWT and a key", "keys", get("/", ("Authorization", f"Bearer {JWT}"), ("Authorization", "Bearer {good}")), 200),
    Row("one line, a key and a JWT", "keys", get("/", ("Authorization", f"Bearer {{good}}, Bearer {JWT}")), 200),
    Row("two JWTs and a key", "keys", get("/", ("Authorization", f"Bearer {JWT}, Bearer x{JWT}"), ("X-API-Key", "{good}")), 200),
    Row("nothing but the scheme, and a key", "keys", get("/", ("Authorization", "Bearer "), ("X-API-Key", "{good}")), 200),
    Row("a JWT and two keys", "keys", get("/", ("Authorization", f"Bearer {JWT}, Bearer {{other}}"), ("X-API-Key", "{good}")), 400, cause="request"),
    Row("a JWT and a wrong key", "keys", get("/", ("Authorization", f"Bearer {JWT}"), ("X-API-Key", "{wrong}")), 401, says=NOT_VALID),
    Row("a mistyped key of ours is a second one", "keys", get("/", ("Authorization", "Bearer {typo}"), ("X-API-Key", "{good}")), 400),
    Row("so is one that only begins like ours", "keys", get("/", ("Authorization", "Bearer kg_x"), ("X-API-Key", "{good}")), 400),
    Row("in a place of ours a JWT is a second one", "keys", get("/", ("X-API-Key", f"{JWT}, {{good}}")), 400),
    Row("a JWT alone", "keys", get("/", ("Authorization", f"Bearer {JWT}")), 401, says=NOT_VALID, has={"www-authenticate": INVALID}),
    Row("it is no guess", "keys", BAD, 401, (get("/", ("Authorization", f"Bearer {JWT}")),) * 5),
    Row("a JWT on a public path", "keys", get("/health", ("Authorization", f"Bearer {JWT}")), 200),
    Row("a JWT where keys are optional", "optional", get("/", ("Authorization", f"Bearer {JWT}")), 200),
    Row("a mistyped key where they are", "optional", get("/", ("Authorization", "Bearer kg_x")), 401),
    Row("a JWT is a key where a look-up decides", "scopes", get("/", ("Authorization", f"Bearer {JWT}"), ("X-API-Key", "ada-key")), 400),
    Row("and alone", "scopes", get("/", ("Authorization", f"Bearer {JWT}")), 401, says=NOT_VALID),
    # -- how a key begins
    Row("a key of another environment", "keys", with_key("test"), 401, says=NOT_VALID, has={"www-authenticate": INVALID}),
    Row("of another prefix", "keys", with_key("foreign"), 401, says=NOT_VALID),
    Row("where all environments are accepted", "every env", with_key("test"), 200),
    Row("all prefixes are not", "every env", with_key("foreign"), 401),
    # -- public paths
    Row("a public path", "keys", get("/health"), 200),
    Row("with a query", "keys", get("/health?key=x"), 200),
    Row("exact means exact", "keys", get("/healthy"), 401),
    Row("a slash more is another path", "keys", get("/health/"), 401),
    Row("other letters are another path", "keys", get("/Health"), 401),
    Row("a subtree", "keys", get("/docs/a/b"), 200),
    Row("its root", "keys", get("/docs"), 200),
    Row("whole segments only", "keys", get("/docsx"), 401),
    Row("an empty segment", "keys", get("/docs//private"), 400, cause="request"),
    Row("a dot segment", "keys", get("/docs/../private"), 400, cause="request"),
    Row("an encoded dot segment", "keys", get("/docs/%2e%2E/private"), 400, cause="request"),
    Row("an encoded slash", "keys", get("/docs%2Fprivate"), 400, cause="request"),
    Row("an encoded backslash", "keys", get("/docs%5cprivate"), 400, cause="request"),
    Row("a parameter", "keys", get("/docs;x/private"), 400, cause="request"),
    Row("an encoded NUL", "keys", get("/health%00"), 400, cause="request"),
    Row("bytes that are no UTF-8", "keys", get("/docs/%ff"), 400, cause="request"),
    Row("UTF-8 is fine", "keys", get("/docs/%C3%A9t%C3%A9"), 200),
    Row("mounted under a prefix", "keys", get("/api/health", root="/api"), 200),
    Row("the prefix is not part of the path", "keys", get("/health/x", root="/health"), 401),
    # -- overload
    Row("a request too many", "overload", GOOD, 503, cause="overload", has={"retry-after": "1", "ratelimit": None}, says="Neither your key nor"),
    Row("no key is looked for then", "overload", BAD, 503, (BAD, BAD), cause="overload"),
    Row("a health path is never too many, and no limit was charged", "overload", get("/health"), 200, (GOOD, BAD, get()), has={"ratelimit": '"ip:1/minute";r=0;t=60'}),
    Row("what only looks like one is", "overload", get("/health/x"), 503, cause="overload"),
    # -- preflight and methods
    Row(
        "a preflight needs no key", "preflights", PREFLIGHT, 200, has={"content-length": "0", "set-cookie": None, "ratelimit": LEFT_OF_5},
    ),
    Row("it does where nothing is seen to answer it before a view", "keys", PREFLIGHT, 401),
    Row("and where it is told to", "no preflights", PREFLIGHT, 401),
    Row("limits further in do not count it", "preflights", GOOD, 200, (PREFLIGHT,) * 4),
    Row("one by address outside counts it, and refuses it", "preflights", PREFLIGHT, 429, (PREFLIGHT,) * 5, cause="usage"),
    Row("together with other requests", "preflights", GOOD, 429, (PREFLIGHT,) * 5, cause="usage"),
    Row(
        "a wrong key makes it none", "preflights",
        with_key("wrong", "/", ("Origin", "a"), ("Access-Control-Request-Method", "PUT"), method="OPTIONS"), 401,
    ),
    Row(
        "a right one too", "preflights", GOOD, 429,
        (with_key("good", "/", ("Origin", "a"), ("Access-Control-Request-Method", "PUT"), method="OPTIONS"),) * 2,
    ),
    Row("an empty body is none", "preflights", preflight(("Content-Length", "0")), 200),
    Row("a body makes it none", "preflights", preflight(("Content-Length", "2"), body=b"{}"), 401),
    Row("and so does one of which the length is not told", "preflights", preflight(("Transfer-Encoding", "chunked"), body=b"{}"), 401),
    *[
        Row(f"{name} makes it none", "preflights", preflight((name, "DELETE")), 401)
        for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "x-method", "HTTP-Method-Override", "Method-Override", "X-HTTP-Verb", "X-Override-Method", "X-Original-Method", "X-Forwarded-Method")
    ],
    Row("on a public path it is a request like others, and counts", "preflights", replace(PREFLIGHT, target="/health"), 429, (replace(PREFLIGHT, target="/health"),) * 2),
    Row("OPTIONS is no preflight", "keys", get("/", method="OPTIONS"), 401),
    Row("nor is a GET with its headers", "keys", get("/", ("Origin", "a"), ("Access-Control-Request-Method", "PUT")), 401),
    Row("an unknown method", "keys", get("/", method="BREW"), 401),
    Row("HEAD, refused", "keys", get("/", method="HEAD"), 401),
    Row("HTTP/1.0 with no Host", "keys", with_key("good", version="1.0", host=False), 200),
    # -- optional keys
    Row("anonymous where keys are optional", "optional", get(), 200),
    Row("a wrong key is still refused", "optional", get("/", ("X-API-Key", "wrong")), 401),
    Row("an empty one too", "optional", get("/", ("X-API-Key", "")), 401),
    Row("the anonymous are counted by address", "optional", get(), 429, (get(), get()), cause="usage"),
    Row("each for itself", "optional", get(client="192.0.2.7"), 200, (get(), get())),
    Row("and apart from keys", "optional", GOOD, 200, (get(), get())),
    # -- scopes, own look-up
    Row("the scope it has", "scopes", get("/", ("X-API-Key", "ada-key")), 200),
    Row(
        "the scope it lacks", "scopes", get("/", ("X-API-Key", "ada-key"), method="POST"), 403, cause="permission",
        has={"www-authenticate": CHALLENGE + ', error="insufficient_scope", scope="write"'},
    ),
    Row("a key the look-up does not know", "scopes", get("/", ("X-API-Key", "eve-key")), 401, says=NOT_VALID),
    # -- addresses
    Row("a denied address", "full", with_key("good", client="203.0.113.200"), 403, cause="address"),
    Row("next to it", "full", with_key("good", client="203.0.114.1"), 200),
    Row("IPv6", "full", with_key("good", client="2001:db8:bad::1"), 403, cause="address"),
    Row("IPv4 written as IPv6", "full", with_key("good", client="::ffff:203.0.113.9"), 403, cause="address"),
    Row("the same in hexadecimal", "full", with_key("good", client="::ffff:cb00:7109"), 403, cause="address"),
    Row("with a zone", "full", with_key("good", client="2001:db8:bad::1%eth0"), 403, cause="address"),
    Row("a forwarding header of nobody we trust", "full", get("/", ("X-API-Key", "{good}"), ("X-Forwarded-For", "203.0.113.9")), 200),
    Row("nor does it help", "full", get("/", ("X-Forwarded-For", "198.51.100.1"), client="203.0.113.9"), 403),
    Row("a unix socket passes a deny list", "full", with_key("good", client=None), 200),
    Row("and no allow list", "allow", get(client=None), 403, cause="address"),
    Row("an allowed address", "allow", get(), 200),
    Row("one that is not", "allow", get(client="198.51.101.1"), 403, cause="address"),
    Row("an allowed IPv6 address", "allow", get(client="2001:db8:0:1::1"), 200),
    Row("something that is no address", "allow", get(client="testclient"), 403, cause="address"),
    Row("a filter on some paths, elsewhere", "admin", get("/open"), 200),
    Row("and there", "admin", get("/admin/x"), 403, cause="address"),
    Row("with a slash behind", "admin", get("/admin/"), 403, cause="address"),
    Row("with two slashes", "admin", get("//admin"), 400, cause="request"),
    # -- behind proxies
    Row("the client behind a proxy", "proxied", peer("10.0.0.1", "203.0.113.9"), 403, cause="address"),
    Row("the rightmost that is not ours", "proxied", peer("10.0.0.1", "203.0.113.9, 198.51.100.7, 10.0.0.2"), 200),
    Row("what stands left of it was written by anybody", "proxied", peer("10.0.0.1", "198.51.100.7, 203.0.113.9"), 403),
    Row("several lines are one list", "proxied", Ask(client="10.0.0.1", headers=(("X-Forwarded-For", "198.51.100.7"), ("X-Forwarded-For", "203.0.113.9"))), 403),
    Row("with a port", "proxied", peer("10.0.0.1", "203.0.113.9:4711"), 403),
    Row("in brackets", "proxied", peer("10.0.0.1", "[::ffff:203.0.113.9]:4711"), 403),
    Row("a proxy on a unix socket", "proxied", peer(None, "203.0.113.9"), 403),
    Row("each client has its own count", "proxied", peer("10.0.0.1", "198.51.100.8"), 200, (peer("10.0.0.1", "198.51.100.7"),)),
    Row("a rotating header is the same client", "proxied", peer("192.0.2.1", "198.51.100.8"), 429, (peer("192.0.2.1", "198.51.100.7"),)),
    Row("all who cannot be known share one count", "proxied", peer("10.0.0.1", "hidden"), 429, (peer("10.0.0.1", "unknown"),)),
    Row("leading zeros are no address", "proxied", peer("10.0.0.1", "198.051.100.8"), 429, (peer("10.0.0.1", "unknown"),)),
    Row("Forwarded", "forwarded", peer("10.0.0.1", 'for="198.51.100.7:80";proto=https', "Forwarded"), 200),
    Row("Forwarded by another", "forwarded", peer("10.0.0.1", "for=192.0.2.1", "Forwarded"), 403),
    Row("Forwarded, obfuscated", "forwarded", peer("10.0.0.1", "for=_hidden", "Forwarded"), 403),
    Row("Forwarded, broken", "forwarded", peer("10.0.0.1", 'for="198.51.100.7', "Forwarded"), 403),
    Row("the other header does not count", "forwarded", peer("10.0.0.1", "198.51.100.7"), 403),
    # -- limits
    Row(
        "what is left", "full", GOOD, 200,
        has={
            "ratelimit": '"key:2/10 seconds";r=1;t=10, "key:100/day";r=99;t=87300',
            "ratelimit-policy": '"key:2/10 seconds";q=2;w=10, "key:100/day";q=100;w=86400',
            "retry-after": None,
        },
    ),
    Row(
        "used up", "full", GOOD, 429, (GOOD, GOOD), cause="usage",
        has={
            "retry-after": "10", "cache-control": "no-store", "content-type": "application/problem+json",
            "ratelimit": '"key:2/10 seconds";r=0;t=10, "key:100/day";r=98;t=87300',
        },
        says="'key:2/10 seconds' is used up. It works again in 10 seconds, at 2027-01-15T08:00:10Z",
    ),
    Row("a second too early", "full", GOOD, 429, (GOOD, GOOD), wait=9, has={"retry-after": "1"}),
    Row("when it said", "full", GOOD, 200, (GOOD, GOOD), wait=10),
    Row("another key", "full", with_key("other"), 200, (GOOD, GOOD)),
    Row("public paths are counted by address", "full", get("/health"), 429, (get("/health"), get("/health")), cause="usage"),
    Row("a refused request charges nothing", "full", GOOD, 200, (get(), BAD, with_key("good", client="203.0.113.1"))),
    Row("by address", "ip", get(client="192.0.2.1"), 429, (get(client="192.0.2.1"),) * 2, cause="usage"),
    Row("IPv6 by /64", "ip", get(client="2001:db8::3"), 429, (get(client="2001:db8::1"), get(client="2001:db8::2"))),
    Row("another /64", "ip", get(client="2001:db8:0:1::3"), 200, (get(client="2001:db8::1"), get(client="2001:db8::2"))),
    Row("whatever the path", "ip", get("/c?x"), 429, (get("/a"), get("/b"))),
    Row("whatever the method", "ip", get(method="BREW"), 429, (get(method="POST"), get(method="DELETE"))),
    Row("a preflight is a request like others", "ip", get(), 429, (PREFLIGHT,) * 2, cause="usage"),
    Row(
        "with a key it is", "by key", with_key("good"), 429,
        (with_key("good", "/", ("Origin", "a"), ("Access-Control-Request-Method", "PUT"), method="OPTIONS"),) * 2,
    ),
    Row("HEAD counts where GET does", "reads", get(method="HEAD"), 429, (get(),)),
    Row("and POST does not", "reads", get(), 200, (get(method="POST"),) * 2),
    Row("evenly", "smooth", get(), 429, (get(), get()), has={"retry-after": "1", "ratelimit": '"ip:1/second smooth";r=0;t=1'}),
    Row("two limits of two kinds", "quota", get(), 200, has={"ratelimit-policy": '"ip:9/minute";q=9;w=60, "ip:2/month";q=2', "ratelimit": '"ip:9/minute";r=8;t=60, "ip:2/month";r=1;t=2646000'}),
    Row("a quota that is used up", "quota", get(), 429, (get(), get()), cause="usage", has={"retry-after": "2646000"}, says="at 2027-02-14T23:00:00Z"),
    Row("a quota that has begun anew", "quota", get(), 200, (get(), get(), get()), wait=2_646_000),
    Row("a balance", "credits", get("/", ("X-API-Key", "ada-key")), 200, has={"ratelimit-policy": '"renders:2 credits";q=2', "ratelimit": '"renders:2 credits";r=1'}),
    Row("a balance that is spent", "credits", get("/", ("X-API-Key", "ada-key")), 429, (get("/", ("X-API-Key", "ada-key")),) * 2, cause="usage", has={"retry-after": None}, says="only a grant", wait=10**8),
    Row("the fields of GitHub", "fields of GitHub", get(), 200, has={"x-ratelimit-limit": "2", "x-ratelimit-remaining": "1", "x-ratelimit-used": "1", "x-ratelimit-reset": "1800000060", "x-ratelimit-resource": "ip", "ratelimit": None}),
    Row("the limit with least left", "fields of GitHub", get(), 200, (get(), get(), get()), has={"x-ratelimit-limit": "3", "x-ratelimit-used": "3", "x-ratelimit-reset": "1801440000"}, wait=60),
    Row("a cost", "cost", get("/?4"), 429, (get("/?7"),), has={"retry-after": "60"}),
    Row("a cost that still fits", "cost", get("/?3"), 200, (get("/?7"),), has={"ratelimit": '"ip:10/minute";r=0;t=60'}),
    Row("a cost of nothing", "cost", get("/?0"), 200, (get("/?10"),)),
    Row("a cost beyond the limit", "cost", get("/?11"), 429, cause="usage", has={"retry-after": None}, says="Waiting does not help"),
    Row("a cost function that fails", "cost", get("/?x"), 503, cause="fault", has={"retry-after": "1"}, says="Your key and your limits are not"),
    Row(
        "the older fields", "old fields", get(), 200,
        has={"x-ratelimit-limit": "2", "x-ratelimit-remaining": "1", "x-ratelimit-reset": "60", "ratelimit": None},
    ),
    Row("tell of the limit that refused", "old fields", get(), 429, (get(), get()), has={"x-ratelimit-limit": "2", "x-ratelimit-remaining": "0"}),
    Row("a path parameter is no fresh bucket", "scope", get("/items/2", method="POST"), 429, (get("/items/1", method="POST"),)),
    Row("nor a slash behind it", "scope", get("/items/1/", method="POST"), 429, (get("/items/1", method="POST"),)),
    Row("other methods are free", "scope", get("/items/1"), 200, (get("/items/1", method="POST"),)),
    Row("other paths are free", "scope", get("/items/1/x", method="POST"), 200, (get("/items/1", method="POST"),)),
    Row("an unknown method falls under the rule", "scope", get("/items/1", method="post"), 429, (get("/items/1", method="POST"),)),
    *[
        Row(f"{name} may make it one that counts", "scope", get("/items/1", (name, "POST")), 429, (get("/items/1", method="POST"),))
        for name in ("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X-HTTP-Verb")
    ],
    Row("an ambiguous path is refused", "scope", get("//items/1", method="POST"), 400, cause="request"),
    Row(
        "limits decide together", "two limits", get(), 429, (get(), get(), get()),
        has={"ratelimit": '"ip:5/minute";r=4;t=60, "tight:1/minute";r=0;t=60'}, says="'tight:1/minute' is used up",
    ),
    # -- forms of a refusal
    Row("for a browser", "keys", get("/", ("Accept", "text/html,application/xml;q=0.9,*/*;q=0.8")), 401, has={"content-type": "text/html; charset=utf-8"}, says="<h1>Valid API key needed</h1>"),
    Row("for a terminal", "keys", get("/", ("Accept", "text/plain")), 401, has={"content-type": "text/plain; charset=utf-8"}, says="detail: Send an API key."),
    Row("for anything", "keys", get("/", ("Accept", "*/*")), 401, has={"content-type": "application/problem+json"}),
    Row("for nonsense", "keys", get("/", ("Accept", ";;q=x,,")), 401, has={"content-type": "application/problem+json"}),
    Row("never HTML for who refuses it", "keys", get("/", ("Accept", "text/html;q=0, application/json")), 401, has={"content-type": "application/problem+json"}),
    Row("its id is the request's", "keys", get(), 401, says='"instance": "row-1"'),
    # -- bans
    Row("two failures are none", "bans", GOOD, 200, (BAD,) * 2),
    Row("the third is answered as it is", "bans", BAD, 401, (BAD,) * 2, has={"www-authenticate": INVALID}),
    Row("and then nothing is, until a moment", "bans", GOOD, 429, (BAD,) * 3, cause="address", has={"retry-after": "90"}, says="are refused until"),
    Row("a second too early", "bans", GOOD, 429, (BAD,) * 3, wait=89, has={"retry-after": "1"}),
    Row("when it said", "bans", GOOD, 200, (BAD,) * 3, wait=90),
    Row("whoever is exempt", "bans", with_key("good", client="192.0.2.1"), 200, (with_key("wrong", client="192.0.2.1"),) * 4),
    Row("a proxy is none of its callers", "bans", with_key("good", client="10.0.0.1"), 200, (with_key("wrong", "/", ("X-Forwarded-For", "203.0.113.9"), client="10.0.0.1"),) * 3),
]  # fmt: skip
