"""Whatever may name a caller counts as credentials: no answer that an app made for one goes to another."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from flask import Flask
from flask import request as flask_request
from starlette.applications import Starlette
from starlette.authentication import AuthCredentials, SimpleUser, UnauthenticatedUser
from starlette.routing import Mount

import keyguard.asgi
import keyguard.wsgi
from keyguard import APIKeys, Identity, Keyguard, ResponseCache
from keyguard.http.callers import NOTHING, PERHAPS, SURELY, named_by
from keyguard.testing import ManualClock
from tests.support.cache_worlds import Origin, Seen, World, world
from tests.support.harness import Answer, Ask, ask_asgi, ask_wsgi
from tests.support.neighbours import BRIDGES, to_wsgi


@pytest.fixture(params=["asgi", "wsgi"])
def either(request: pytest.FixtureRequest) -> Iterator[World]:
    with world(request.param) as made:
        yield made


def is_hit(answer: Answer) -> bool:
    return "hit" in (answer.get("cache-status") or "")


# -- fields -------------------------------------------------------------------------------------------------------

FIELDS = """
    X-Forwarded-User X-Forwarded-Email X-Forwarded-Preferred-Username X-Forwarded-Groups
    X-Forwarded-Access-Token X-Auth-Request-User X-Auth-Request-Email X-Auth-Request-Groups
    X-Auth-Request-Access-Token X-Auth-Token X-Auth X-Remote-User Remote-User Remote-Email Remote-Name
    Remote-Groups Cf-Access-Jwt-Assertion Cf-Access-Client-Id Cf-Access-Authenticated-User-Email
    X-Goog-Authenticated-User-Email X-Goog-Authenticated-User-Id X-Goog-IAP-JWT-Assertion X-Amzn-Oidc-Data
    X-Amzn-Oidc-Identity X-Amzn-Oidc-Accesstoken X-MS-CLIENT-PRINCIPAL X-MS-CLIENT-PRINCIPAL-NAME
    X-MS-TOKEN-AAD-ID-TOKEN X-SSL-Client-DN X-SSL-Client-Cert SSL-Client-Cert X-SSL-Cert X-SSL-Subject
    X-Client-Cert X-Client-Cert-DN X-Client-DN X-ARR-ClientCert X-Forwarded-Client-Cert Client-Cert
    X-Forwarded-Tls-Client-Cert X-Forwarded-Tls-Client-Cert-Info X-Webauth-User X-Token X-Token-Subject
    X-Session X-Session-Id Tailscale-User-Login Tailscale-User-Name X-Authentik-Username X-Authentik-Uid
    X-Authentik-Meta-Jwks X-User X-User-Id X-Username X-Email X-JWT X-JWT-Payload X-Userinfo X-Authorization
    Authorization Proxy-Authorization X-Serverless-Authorization X-API-Key Api-Key ApiKey X-RapidAPI-Key
    Ocp-Apim-Subscription-Key X-Consumer-Username X-Consumer-Custom-Id X-Credential-Identifier
    X-Pomerium-Claim-Email X-Vouch-User X-Vouch-IdP-Claims-Name SM-User iv-user OAM-Remote-User Shib-Session-ID
    Eppn X-Spiffe-Id DPoP X-On-Behalf-Of X-Act-As Sudo X-Impersonate X-Account-Id X-Customer X-Member-Number
    X-Subject X-Claims X-Principal X-Identity X-Login Private-Token X-Vault-Token X-CSRF-Token X-Kubernetes-User
    X-Grafana-User X-Sso-User X-Saml-NameID L5d-Client-Id X-Employee-Id X-Nickname X-Display-Name
    X-Apigateway-Api-Userinfo X-Endpoint-API-UserInfo X-Original-User X-MSISDN X-Caller Authentication X-Secret
    X-Password X-Wallet-Address X-Email-Address X-Signature X-Person X-Uid
""".split()  # noqa: SIM905
GROUPS = [
    "Cookie",
    "From",
    "X-Tenant-Id",
    "X-Org-Id",
    "X-Device-Id",
    "X-Amzn-Request-Context",
    "X-Merchant-Id",
    "X-Ssn-Number",
]

HARMLESS = """
    User-Agent Accept-Language Accept-Encoding Sec-Fetch-User Sec-CH-UA Upgrade-Insecure-Requests
    X-Forwarded-For X-Real-IP X-Client-IP True-Client-IP CF-Connecting-IP CF-Ray CF-IPCountry X-Request-Id
    X-Correlation-Id Traceparent X-Amzn-Trace-Id X-Cloud-Trace-Context X-B3-TraceId Via Referer Origin DNT
    Priority X-Requested-With Save-Data X-Envoy-External-Address CloudFront-Viewer-Country X-Azure-Ref X-Colour
    X-Varnish CDN-Loop Idempotency-Key
    X-Playback-Session-Id X-Vercel-Oidc-Token Rndr-Id Fastly-Client X-Datadog-Parent-Id
""".split()  # noqa: SIM905


def of_all(seen: Seen) -> Any:
    """All fields of the request, in an answer of which the app says nothing."""
    return 200, [], repr(sorted(seen.fields.items())).encode()


def test_with_a_ttl_no_answer_goes_from_one_caller_to_another_whatever_names_them(either: World) -> None:
    """The second caller sends another value, the third one sends none."""
    origin = Origin(of_all)
    app = either.wrap(Keyguard(ResponseCache(ttl=60)), either.app(origin))
    wrong = []
    for name in (*FIELDS, *GROUPS):
        for path, order in ((f"/{name}/0", ("alice", "bob", None)), (f"/{name}/1", (None, "alice", "bob"))):
            for value in order:
                answer = either.ask(app, Ask(path, ((name, value),) if value else ()), lint=False)
                text = answer.body.decode()
                told = [one for one in ("alice", "bob") if one in text]
                if told != ([value] if value else []):
                    wrong.append((name, order, value, text))
    assert wrong == []


def test_what_surely_names_a_caller_counts_where_the_app_sets_a_lifetime_as_well(either: World) -> None:
    """`max-age` says for how long, and not for whom; `public` says for whom."""
    origin = Origin(lambda seen: (200, [("Cache-Control", seen.path[1:].split("/")[0])], of_all(seen)[2]))
    app = either.wrap(Keyguard(ResponseCache()), either.app(origin))
    for name in FIELDS:
        for says in ("max-age=60", "public, max-age=60"):
            path = f"/{says.replace(' ', '')}/{name}"
            bodies = [either.ask(app, Ask(path, ((name, one),)), lint=False).body for one in ("alice", "bob")]
            assert (b"bob" in bodies[1]) == (says == "max-age=60"), name


def test_fields_that_name_nobody_leave_the_cache_as_it_is(either: World) -> None:
    origin = Origin(of_all)
    app = either.wrap(Keyguard(ResponseCache(ttl=60)), either.app(origin))
    for name in HARMLESS:
        first, second = [either.ask(app, Ask(f"/{name}", ((name, value),))) for value in ("1", "2")]
        assert (is_hit(first), is_hit(second)) == (False, True), name


def test_an_answer_to_nobody_in_particular_is_not_for_who_has_a_name(either: World) -> None:
    """Also where it has become a plain hit, which is answered without a second look."""
    origin = Origin(of_all)
    app = either.wrap(Keyguard(ResponseCache(ttl=60)), either.app(origin))
    for _ in range(3):
        either.ask(app, Ask("/"))
    assert is_hit(either.ask(app, Ask("/")))
    for name in (*FIELDS, *GROUPS):
        assert b"alice" in either.ask(app, Ask("/", ((name, "alice"),)), lint=False).body, name
    assert is_hit(either.ask(app, Ask("/")))


@pytest.mark.parametrize("options", [{"ttl": 60}, {}])
def test_other_names_can_be_added(either: World, options: dict[str, Any]) -> None:
    def reply(seen: Seen) -> Any:
        said = seen.fields.get("x-colour", "") + str(seen.scope.get("MELLON_COLOUR", ""))
        return 200, [] if options else [("Cache-Control", "max-age=60")], said.encode()

    cache = ResponseCache(credentials=["X-Colour", "MELLON_COLOUR"], **options)
    inner = either.wrap(Keyguard(cache), either.app(Origin(reply)))
    value: list[str] = []

    async def with_scope(scope: Any, receive: Any, send: Any) -> None:
        await inner({**scope, **({"MELLON_COLOUR": value[0]} if value else {})}, receive, send)

    def with_environ(environ: Any, start_response: Any) -> Any:
        return inner({**environ, **({"MELLON_COLOUR": value[0]} if value else {})}, start_response)

    app: Any = with_scope if either.name == "asgi" else with_environ
    bodies = [either.ask(app, Ask("/", ((name, one),))).body for name in ("X-Colour",) for one in ("red", "blue")]
    assert bodies == [b"red", b"blue"]
    bodies = []
    for colour in ("green", "black"):
        value[:] = [colour]
        bodies.append(either.ask(app, Ask("/")).body)
    assert bodies == [b"green", b"black"]


@pytest.mark.parametrize("wrong", [["a b"], [""], "*", [5], 7])
def test_names_that_are_none_stop_the_start(wrong: Any) -> None:
    with pytest.raises(keyguard.ConfigurationError, match="credentials"):
        ResponseCache(credentials=wrong)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        *((name, SURELY) for name in FIELDS),
        *((name, PERHAPS) for name in GROUPS),
        *((name, NOTHING) for name in HARMLESS),
    ],
)
def test_a_field_is_known_by_the_words_in_its_name(name: str, expected: int) -> None:
    assert named_by(name.lower()) == expected


# -- what servers and middleware say ------------------------------------------------------------------------------


class Connection:
    """A connection with a certificate, as gunicorn hands it on."""

    def __init__(self, certificate: bytes | None) -> None:
        self.certificate = certificate

    def getpeercert(self, binary_form: bool = False) -> bytes | None:
        return self.certificate


@dataclass
class AUser:
    """A user as an app makes them, of which nothing is known here."""

    name: str = field(default="")


ENVIRONS: dict[str, Callable[[str], dict[str, Any]]] = {
    "REMOTE_USER": lambda who: {"REMOTE_USER": who},
    "REMOTE_IDENT": lambda who: {"REMOTE_IDENT": who},
    "AUTH_TYPE": lambda who: {"AUTH_TYPE": who},
    "SSL_CLIENT_S_DN": lambda who: {"SSL_CLIENT_S_DN": who, "SSL_CLIENT_VERIFY": "SUCCESS"},
    "SSL_CLIENT_CERT": lambda who: {"SSL_CLIENT_CERT": who},
    "HTTPS_DN of uWSGI": lambda who: {"HTTPS_DN": who},
    "OIDC_CLAIM_sub": lambda who: {"OIDC_CLAIM_sub": who},
    "Shib-Session-ID": lambda who: {"Shib-Session-ID": who},
    "eppn": lambda who: {"eppn": who},
    "a session": lambda who: {"beaker.session": {"who": who}},
    "an identity": lambda who: {"repoze.who.identity": {"who": who}},
    "a user": lambda who: {"myapp.user": AUser(who)},
    "a connection": lambda who: {"gunicorn.socket": Connection(who.encode())},
    "an authorizer": lambda who: {"serverless.event": {"requestContext": {"authorizer": {"claims": {"sub": who}}}}},
    "an authorizer's word": lambda who: {"serverless.authorizer": {"principalId": who}},
    "a scope": lambda who: {"asgi.scope": {"type": "http", "headers": [], "user": SimpleUser(who)}},
}
SCOPES: dict[str, Callable[[str], dict[str, Any]]] = {
    "a certificate": lambda who: {"extensions": {"tls": {"server_cert": "x", "client_cert_chain": [who]}}},
    "a certificate's name": lambda who: {"extensions": {"tls": {"client_cert_name": f"CN={who}"}}},
    "a user": lambda who: {"user": SimpleUser(who), "auth": AuthCredentials(["authenticated"])},
    "a user of one's own": lambda who: {"user": AUser(who)},
    "rights": lambda who: {"auth": AuthCredentials([who])},
    "a session": lambda who: {"session": {"who": who}},
    "an identity": lambda who: {"identity": who},
    "a token": lambda who: {"myapp.token": who},
    "what middleware noted": lambda who: {"state": {"user": who}},
    "an id that middleware noted": lambda who: {"state": {"current_user_id": who}},
    "a gateway's event": lambda who: {
        "aws.event": {"requestContext": {"identity": {"sourceIp": "192.0.2.1", "cognitoIdentityId": who}}}
    },
    "a connection": lambda who: {"ssl_object": Connection(who.encode())},
    "an environ": lambda who: {"wsgi_environ": {"REMOTE_USER": who}},
}


@pytest.mark.parametrize("options", [{"ttl": 60}, {"by": "key"}])
@pytest.mark.parametrize("kind", list(ENVIRONS))
def test_what_a_server_says_of_the_caller_counts(kind: str, options: dict[str, Any]) -> None:
    told: list[str] = []

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Cache-Control", "max-age=60")] if "by" in options else [])
        return [(told or ["nobody"])[0].encode()]

    guards = [APIKeys(optional=True)] if "by" in options else []
    guarded = Keyguard(*guards, ResponseCache(**options)).wsgi(app)

    def outside(environ: Any, start_response: Any) -> Any:
        return guarded({**environ, **(ENVIRONS[kind](told[0]) if told else {})}, start_response)

    bodies = []
    for who in ([], ["alice"], ["bob"], [], ["alice"]):
        told[:] = who
        bodies.append(ask_wsgi(outside, Ask("/"), lint=False).body)
    assert bodies == [b"nobody", b"alice", b"bob", b"nobody", b"alice"]


@pytest.mark.parametrize("options", [{"ttl": 60}, {"by": "key"}])
@pytest.mark.parametrize("kind", list(SCOPES))
def test_what_stands_in_the_scope_of_the_caller_counts(kind: str, options: dict[str, Any]) -> None:
    told: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        says = [(b"cache-control", b"max-age=60")] if "by" in options else []
        await send({"type": "http.response.start", "status": 200, "headers": says})
        await send({"type": "http.response.body", "body": (told or ["nobody"])[0].encode()})

    guards = [APIKeys(optional=True)] if "by" in options else []
    guarded = Keyguard(*guards, ResponseCache(**options)).asgi(app)

    async def outside(scope: Any, receive: Any, send: Any) -> None:
        await guarded({**scope, **(SCOPES[kind](told[0]) if told else {})}, receive, send)

    bodies = []
    for who in ([], ["alice"], ["bob"], [], ["alice"]):
        told[:] = who
        bodies.append(ask_asgi(outside, Ask("/"), lint=False).body)
    assert bodies == [b"nobody", b"alice", b"bob", b"nobody", b"alice"]


def test_a_server_that_says_of_everybody_that_it_knows_nobody_leaves_the_cache_as_it_is() -> None:
    environ = {
        "REMOTE_USER": "",
        "SSL_CLIENT_VERIFY": "NONE",
        "SSL_CLIENT_S_DN": "(null)",
        "SSL_SERVER_S_DN": "CN=example.test",
        "SSL_SESSION_ID": "5",
        "gunicorn.socket": Connection(None),
        "CONTEXT_PREFIX": "/",
        "serverless.event": {"requestContext": {"requestId": "5", "identity": {"sourceIp": "192.0.2.1", "user": None}}},
        "mod_wsgi.process_group": "site",
    }
    scope = {
        "extensions": {"tls": {"server_cert": "x", "client_cert_chain": [], "client_cert_name": None}},
        "user": UnauthenticatedUser(),
        "aws.event": {"requestContext": {"identity": {"sourceIp": "192.0.2.1"}}, "headers": {"user": "a"}},
        "auth": AuthCredentials(),
        "session": {},
        "state": {"session_factory": print, "user_repository": object(), "user": None},
    }
    wsgi_app = Keyguard(ResponseCache(ttl=60)).wsgi(Origin(of_all).wsgi)
    asgi_app = Keyguard(ResponseCache(ttl=60)).asgi(Origin(of_all).asgi)

    async def with_scope(given: Any, receive: Any, send: Any) -> None:
        await asgi_app({**given, **scope}, receive, send)

    answers = [ask_wsgi(lambda given, start: wsgi_app({**given, **environ}, start), Ask(), lint=False) for _ in "12"]
    assert [is_hit(answer) for answer in answers] == [False, True]
    answers = [ask_asgi(with_scope, Ask(), lint=False) for _ in "12"]
    assert [is_hit(answer) for answer in answers] == [False, True]


def test_the_environment_of_the_process_names_no_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    """wsgiref's server copies it into each environ: the name there is that of who started the server."""
    monkeypatch.setenv("USER", "operator")
    monkeypatch.setenv("SESSION_TOKEN", "5")
    app = Keyguard(ResponseCache(ttl=60)).wsgi(Origin(of_all).wsgi)

    def ask(**environ: str) -> bool:
        return is_hit(ask_wsgi(lambda given, start: app({**given, **environ}, start), Ask(), lint=False))

    assert [ask(USER="operator", SESSION_TOKEN="5") for _ in range(2)] == [False, True]
    assert not ask(USER="somebody", SESSION_TOKEN="5")


# -- over bridges -------------------------------------------------------------------------------------------------

OWNERS = {"ada-key": Identity("ada"), "bob-key": Identity("bob")}
SOURCES = {
    "X-API-Key": lambda key: Ask("/who", (("X-API-Key", key),)),
    "Authorization": lambda key: Ask("/who", (("Authorization", f"Bearer {key}"),)),
    "X-Colour": lambda key: Ask("/who", (("X-Colour", key),)),
    "cookie:colour": lambda key: Ask("/who", (("Cookie", f"colour={key}"),)),
    "query:colour": lambda key: Ask(f"/who?colour={key}"),
}
OUTSIDE = ["layer", "stack"]


def flask_app(source: str, by_hand: bool) -> Flask:
    """An app that wants a key: found by `APIKeys` inside of it, or by the app's own code."""
    app = Flask("inside")

    @app.get("/who")
    def who() -> Any:
        name = "nobody"
        if by_hand:
            found = [value for key, value in flask_request.headers if value.rpartition(" ")[2] in OWNERS]
            name = OWNERS[found[0].rpartition(" ")[2]].subject if found else name
        else:
            name = flask_request.environ["keyguard.request"].identity.subject or name
        return name, 200, {"Cache-Control": "max-age=60"}

    if not by_hand:
        app.wsgi_app = keyguard.wsgi.APIKeys(  # type: ignore[method-assign]
            app.wsgi_app, lookup=OWNERS.get, sources=[source], optional=True
        )
    return app


def cached(outside: str, app: Any, **options: Any) -> Any:
    if outside == "layer":
        return keyguard.asgi.ResponseCache(app, **options)
    return Keyguard(ResponseCache(**options)).asgi(app)


@pytest.mark.parametrize("options", [{}, {"ttl": 60}, {"ignore_query": ["colour"]}], ids=["plain", "ttl", "query"])
@pytest.mark.parametrize("source", list(SOURCES))
@pytest.mark.parametrize("bridge", list(BRIDGES))
def test_no_callers_answer_goes_to_another_where_the_app_inside_a_bridge_finds_the_key(
    bridge: str, source: str, options: dict[str, Any]
) -> None:
    for outside in OUTSIDE:
        for mounted in (False, True):
            inside: Any = BRIDGES[bridge](flask_app(source, by_hand=False))
            if mounted:
                inside = Starlette(routes=[Mount("/", app=inside)])
            app = cached(outside, inside, **options)
            for order in (("ada-key", "bob-key"), (None, "ada-key", "bob-key", None)):
                asks = [Ask("/who") if key is None else SOURCES[source](key) for key in order]
                bodies = [ask_asgi(app, asked, lint=False).body.decode() for asked in asks]
                assert bodies == ["nobody" if key is None else OWNERS[key].subject for key in order]


@pytest.mark.parametrize("source", ["X-API-Key", "Authorization", "cookie:colour"])
@pytest.mark.parametrize("bridge", list(BRIDGES))
def test_the_same_where_the_app_looks_for_the_key_by_itself(bridge: str, source: str) -> None:
    app = Flask("alone")

    @app.get("/who")
    def who() -> Any:
        text = repr(sorted(value for _, value in flask_request.headers))
        return (
            "ada" if "ada-key" in text else "bob" if "bob-key" in text else "nobody",
            200,
            {"Cache-Control": "max-age=60"},
        )

    guarded = keyguard.asgi.ResponseCache(BRIDGES[bridge](app))
    bodies = [ask_asgi(guarded, SOURCES[source](key), lint=False).body for key in ("ada-key", "bob-key")]
    assert bodies == [b"ada", b"bob"]


@pytest.mark.parametrize("source", list(SOURCES))
@pytest.mark.parametrize("outside", OUTSIDE)
def test_the_same_over_the_bridge_from_wsgi_to_asgi(outside: str, source: str) -> None:
    async def who(scope: Any, receive: Any, send: Any) -> None:
        identity = scope["keyguard"].identity
        await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"max-age=60")]})
        await send({"type": "http.response.body", "body": (identity.subject or "nobody").encode()})

    inside = to_wsgi(keyguard.asgi.APIKeys(who, lookup=OWNERS.get, sources=[source], optional=True))
    if outside == "layer":
        app: Any = keyguard.wsgi.ResponseCache(inside)
    else:
        app = Keyguard(ResponseCache()).wsgi(inside)
    for order in (("ada-key", "bob-key"), (None, "ada-key", "bob-key", None)):
        asks = [Ask("/who") if key is None else SOURCES[source](key) for key in order]
        bodies = [ask_wsgi(app, asked, lint=False).body.decode() for asked in asks]
        assert bodies == ["nobody" if key is None else OWNERS[key].subject for key in order]


@pytest.mark.parametrize("source", list(SOURCES))
def test_a_bridge_that_keeps_everything_to_itself_is_looked_through(source: str) -> None:
    """It runs the app in a thread without the request's context, so the layers inside tell nothing."""
    inside = flask_app(source, by_hand=False)

    async def own_bridge(scope: Any, receive: Any, send: Any) -> None:
        query = scope["query_string"].decode()
        asked = Ask(scope["path"] + ("?" + query if query else ""), tuple(scope["headers"]))
        answer = await asyncio.get_running_loop().run_in_executor(None, ask_wsgi, inside, asked)
        headers = [(name.encode(), value.encode()) for name, value in answer.headers]
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    app = keyguard.asgi.ResponseCache(own_bridge)
    bodies = [ask_asgi(app, SOURCES[source](key), lint=False).body for key in ("ada-key", "bob-key")]
    assert bodies == [b"ada", b"bob"]


def test_layers_that_an_app_has_not_put_together_yet_are_seen_as_well() -> None:
    """Starlette makes its line of middleware with the first request."""

    def app() -> Any:
        async def who(scope: Any, receive: Any, send: Any) -> None:
            name = scope["keyguard"].identity.subject or "nobody"
            await send({"type": "http.response.start", "status": 200, "headers": [(b"cache-control", b"max-age=60")]})
            await send({"type": "http.response.body", "body": name.encode()})

        made = Starlette(routes=[Mount("/", app=who)])
        made.add_middleware(keyguard.asgi.APIKeys, lookup=OWNERS.get, sources=["X-Colour"], optional=True)
        return made

    cache = ResponseCache()
    guarded = Keyguard(cache).asgi(app())
    keys = [None, "ada-key", "bob-key", None]
    bodies = [ask_asgi(guarded, SOURCES["X-Colour"](key) if key else Ask("/who"), lint=False).body for key in keys]
    assert bodies == [b"nobody", b"ada", b"bob", b"nobody"]


def test_a_cache_over_a_bridge_still_caches_for_callers_without_a_name() -> None:
    for bridge in BRIDGES.values():
        app = keyguard.asgi.ResponseCache(bridge(flask_app("X-Colour", by_hand=False)))
        assert [is_hit(ask_asgi(app, Ask("/who"), lint=False)) for _ in range(3)] == [False, True, True]


# -- by key and by subject --------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["key", "subject"])
@pytest.mark.parametrize("store", ["memory", "sqlite"])
@pytest.mark.parametrize(
    "change",
    [
        {"scopes": frozenset({"read"})},
        {"scopes": frozenset()},
        {"plan": "free"},
        {"plan": None},
        {"metadata": {"tenant": {"id": 1, "role": "guest"}}},
    ],
)
def test_what_a_caller_may_no_more_is_no_hit_any_more(
    either: World, by: Any, store: str, change: dict[str, Any], tmp_path: Any
) -> None:
    """The app makes its answers by scopes, plan and metadata: an entry is for who has the same."""
    before: dict[str, Any] = {"scopes": frozenset({"read", "admin"}), "plan": "pro"}
    before["metadata"] = {"tenant": {"role": "boss", "id": 1}}
    now = dict(before)
    origin = Origin(lambda seen: (200, [("Cache-Control", "private, max-age=600")], repr(now).encode()))
    clock = ManualClock()
    guards = [
        APIKeys(lookup=lambda key: Identity("ada", "1", **now), stale_if_error=0),
        ResponseCache(by=by, local_ttl=0),
    ]
    url = "memory://" if store == "memory" else f"sqlite:///{tmp_path}/cache.db?timeout=5"
    app = either.wrap(Keyguard(*guards, store=url, clock=clock), either.app(origin))

    def ask() -> Answer:
        clock.advance(2)
        return either.ask(app, Ask("/report", (("X-API-Key", "adas"),)))

    first = ask()
    assert [ask().body for _ in range(2)] == [first.body] * 2
    seen = len(origin.seen)
    now.update(change)
    clock.advance(400)
    changed = ask()
    assert not is_hit(changed)
    assert changed.body == repr(now).encode()
    now.update(before)
    now["metadata"] = {"tenant": {"id": 1, "role": "boss"}}  # the same in another order
    clock.advance(400 - 390)
    assert len(origin.seen) == seen + 1
