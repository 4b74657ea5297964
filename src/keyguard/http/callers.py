"""Signs of the caller of a request: names of header fields, and words of servers and middleware.

For who must not mix callers up, and cannot know how the app tells them apart. One field too many that is taken for a
name costs a hit of the cache; one that is missed shows one caller's page to another. So names are read by the words in
them, and there is a list only of what looks like a name and is none.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, TypeAlias

_LONGEST = 256  # characters; what is named longer than that is taken for the worst

NOTHING, PERHAPS, SURELY = 0, 1, 2
"""Whether a field names a caller: `PERHAPS` if it names a group of callers, or a browser, or if it only may."""

Told: TypeAlias = "list[tuple[str, int, str]]"
"""A sign of the caller: its name, how surely that names one, and a text that stands for the value."""

_SURELY = re.compile(
    # Words that stand for somebody wherever they are.
    r"user|usr|auth|jwt|jws|oidc|openid|saml|(?:^|-)sso|principal|identi(?:ty|ties|fier)|credential|creds|"
    r"passw|passphrase|secret|token|api-?key|assertion|impersonat|log(?:in|on|name)|e-?mail|cert|"
    r"claim|consumer|session|sess(?:-|$)|csrf|xsrf|signature|hmac|"
    r"account|acct|customer|subscri|member|person|employee|staff|student|patient|whoami|msisdn|calling-line|wallet|"
    r"(?:first|last|full|given|family|sur|nick|display|real|common|preferred|screen)-?name|"
    # Clients, if that does not mean an address, a version or a hint.
    r"client-?(?:id|uid|name|key|dn|cn|s-dn|i-dn|subject|issuer|verify|serial|fingerprint|peer)|(?:ssl|tls)-?client|"
    r"(?:^|-)(?:ssl|tls|mtls|https)-?(?:cn|dn|s-dn|i-dn|subject|issuer|verify|verified|serial|peer|id)|"
    # Products that put their own name in front of all they say.
    r"(?:^|-)(?:tailscale|cf-access|pomerium|vouch|keycloak|okta|cognito|kanidm|teleport|shib|spiffe|kerberos|krb5?|"
    r"spnego|gss|gssapi|ntlm|negotiate|mellon|cas|sm|iv|ct-remote|oam|webseal|eppn|eduperson[a-z]*|persistent-id|"
    r"targeted-id|linkerd|l5d-client)(?:-|$)|"
    # Whole words.
    r"(?:^|-)(?:remote|subject|sub|dn|cn|upn|uid|euid|sid|guid|pid|ident|key|sign|otp|totp|pin|dpop|ticket|"
    r"fingerprint|groups?|roles?|caller|actor|owner|operator|profile|player|guest|peer|sudo|su|act-as|run-as|on-behalf-of|"
    r"access)(?:-|$)"
)
_PERHAPS = re.compile(
    r"cookie|tenant|organi[sz]ation|(?:^|-)(?:org|orgs|scope|scopes|permissions?|privileges?|"
    r"entitlements?|plan|tier|team|company|workspace|department|device|visitor|viewer|browser|installation|phone|"
    r"mobile|context|name|number|from|who|client|merchant|partner|vendor|publisher|developer|reseller|affiliate|buyer|"
    r"seller|driver|worker|agent-id|badge|uuid)(?:-|$)|(?:^|-)id$"
)
_OF_REQUESTS = re.compile(
    r"(?:^|-)(?:[a-z]*request|correlation|trace|span|[a-z]*parent[a-z]*|transaction|message|event|log|amz-cf|invocation|"
    r"amzn-trace|connection|vercel|newrelic|node|instance|server|pod|region|edge|colo|zone|deployment|build|last-event|"
    r"diagnostics?|operation|activity|root|flow|b3[a-z]*|[a-z]*traceid|[a-z]*spanid)-?(?:id|uuid|guid|key)(?:-|$)|"
    r"(?:^|-)(?:ray|traceparent|tracestate|trace-context|baggage)(?:-|$)"
)
_ADDRESS = re.compile(r"(?:^|-)(?:ip|ips|addr|address|host|port|protocol|proto|version|country|region)$")
_WHENCE = re.compile("remote|peer|client|address")
_CLIENT_HINTS = re.compile(r"sec-|access-control-|accept|if-|content-|cloudfront-viewer-(?!ja)|cloudfront-is-")
_NAMELESS = frozenset(
    {
        *("idempotency-key", "surrogate-key", "cache-key", "early-data", "author", "from-cache"),
        *("client-data", "client-version", "client-hints", "client-protocol", "client-trace-id", "viewer-country"),
        *("cf-visitor", "front-end-https", "host", "te", "via", "dnt", "via-proxy", "mobile-version"),
        # Added by platforms and players to the requests of all callers.
        *("sentry-trace", "vercel-oidc-token", "vercel-proxy-signature", "vercel-proxy-signature-ts", "rndr-id"),
        *("playback-session-id", "wap-profile", "fastly-client", "cf-worker"),
    }
)
"""Names that look like one of a caller and are not, less the "x-" in front."""


def named_by(name: str) -> int:
    """Tell whether a request field may name a caller, by its name in lower case: `NOTHING`, `PERHAPS` or `SURELY`."""
    return SURELY if len(name) > _LONGEST else _named_by(name)


@lru_cache(maxsize=4096)
def _named_by(name: str) -> int:
    name = (
        name.replace("_", "-")
        .replace(".", "-")
        .removeprefix("x-")
        .replace("user-agent", "agent")
        .replace("useragent", "agent")
    )
    if name in _NAMELESS or _CLIENT_HINTS.match(name):
        return NOTHING
    name = _OF_REQUESTS.sub("-", name)
    if _ADDRESS.search(name):
        return SURELY if _SURELY.search(_WHENCE.sub("", name)) else NOTHING
    if _SURELY.search(name):
        return SURELY
    return PERHAPS if _PERHAPS.search(name) else NOTHING


# -- what a server says of the caller ---------------------------------------------------------------------------

_OF_SERVERS = re.compile(
    r"(?:wsgi|uwsgi|mod_wsgi|asgi|a2wsgi|waitress|keyguard|server|request|script|path|document|context|gateway|"
    r"query|content|http2?|https_server|cert_server)(?:[._]|$)|ssl_(?!client)|remote_(?:addr|host|port)$"
)
_ALWAYS = re.compile(r"(?:redirect_)*(?:remote_user|remote_ident|auth_type|ssl_client_.*|https_dn)")
"""Variables that are about the caller whatever the process's own environment holds."""
_NOBODY = frozenset({"", "NONE", "(null)", "-"})
"""Words that servers write in the variables of a client certificate if there was none."""

_nameless_variables: set[str] = set()
_MOST = 4096

NAMELESS_KEYS = frozenset(
    {
        *("type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path"),
        *("headers", "client", "server", "extensions", "state", "subprotocols", "app", "router", "endpoint"),
        *("path_params", "route", "keyguard", "keyguard.record", "app_root_path", "starlette.exception_handlers"),
    }
)
"""Keys of a scope that are not about the caller."""


def told_by_environ(environ: Mapping[str, Any]) -> Told:
    """Return what a WSGI environ says of the caller, besides header fields: `REMOTE_USER`, a certificate, a session."""
    if _nameless_variables.issuperset(environ):
        return []
    found: Told = []
    for key, value in environ.items():
        if key in _nameless_variables or not isinstance(key, str):
            continue
        if key.startswith("HTTP_"):
            surely = NOTHING
        else:
            name = key.lower()
            always = _ALWAYS.fullmatch(name) is not None
            unnamed = _OF_SERVERS.match(name) or _EVENT.search(key)
            surely = SURELY if always else NOTHING if unnamed else named_by(name)
            if surely:
                # Some servers copy the environment of the process, which is the same for all callers.
                if _speaks(value) and (always or os.environ.get(key) != value):
                    found.append((key, surely, _text(value)))
                continue
        if key == "asgi.scope":
            found += told_by_scope(value)
        elif _CONNECTION.search(key):
            found += _by_connection(key, value)
        elif _EVENT.search(key):
            found += _by_event(key, value)
        elif len(_nameless_variables) < _MOST:
            _nameless_variables.add(key)
    return found


def is_nameless(variable: str) -> bool:
    """Tell whether a variable of an environ that was looked at says nothing of a caller, whatever its value."""
    return variable in _nameless_variables


def told_by_scope(scope: Mapping[str, Any]) -> Told:
    """Return what an ASGI scope says of the caller, besides header fields: a user, a session, a client certificate."""
    found: Told = []
    if not NAMELESS_KEYS.issuperset(scope):
        for key in scope.keys() - NAMELESS_KEYS:
            surely = named_by(key.lower()) if isinstance(key, str) else NOTHING
            if key == "session":
                surely = PERHAPS  # it is there for everybody, and says as much as a cookie
            if not isinstance(key, str):
                continue
            if key == "wsgi_environ":
                found += told_by_environ(scope[key])
            elif _EVENT.search(key):
                found += _by_event(key, scope[key])
            elif surely and _speaks(scope[key]):
                found.append((key, surely, _text(scope[key])))
            elif _CONNECTION.search(key):
                found += _by_connection(key, scope[key])
    extensions = scope.get("extensions")
    if extensions:
        found += _by_extensions(extensions)
    state = scope.get("state")
    if state:
        found += _by_state(state)
    return found


def _by_extensions(extensions: Mapping[str, Any]) -> Iterator[tuple[str, int, str]]:
    for key, value in extensions.items():
        if "tls" in key.lower() or "ssl" in key.lower():
            if isinstance(value, Mapping):  # ASGI's TLS extension
                parts = [value[part] for part in value if "client" in str(part) or "peer" in str(part)]
                if any(parts):
                    yield key, SURELY, _text(parts)
        elif not key.startswith(("http.", "websocket.", "lifespan")) and named_by(key.lower()) and _speaks(value):
            yield key, SURELY, _text(value)


_STATE = re.compile(
    r"(?:^|_)(?:user|username|identity|principal|account|subject|sub|claims|token|jwt|email|login|customer|member|"
    r"tenant|uid|session_id|auth|authenticated|api_key|apikey|credentials|caller|viewer)"
    r"(?:_?(?:id|name|email|info|data|claims|key))?$"
)


def _by_state(state: Any) -> Iterator[tuple[str, int, str]]:
    """List what middleware left in `request.state`.

    Objects that an app keeps there for all requests have other names.
    """
    held = getattr(state, "_state", state)
    if isinstance(held, Mapping):
        for key, value in [*held.items()]:
            if isinstance(key, str) and _STATE.search(key.lower()) and _speaks(value) and not callable(value):
                yield key, SURELY, _text(value)


_CONNECTION = re.compile(r"(?:socket|ssl_object|connection|transport)$")
_EVENT = re.compile(r"(?:event|request_?context|authorizer)$", re.IGNORECASE)
"""List what a gateway told of a request to a function that serves it: AWS and others, by Mangum, serverless-wsgi,
Zappa."""
_OF_GATEWAYS = frozenset({"authorizer", "identity", "clientcert", "authentication", "principal", "user", "claims"})
_UNNAMED = frozenset({"sourceip", "useragent", "accesskey", "apikeyid", "vpceid", "vpcid"})


def _by_connection(key: str, connection: Any) -> Told:
    """List the certificate that a client showed, of servers that hand on the connection."""
    try:
        ask = getattr(connection, "getpeercert", None)
        certificate = None if ask is None else ask(True)
    except Exception:  # of a connection that is not one any more: gevent's has no attributes then
        return []
    return [(key, SURELY, _text(certificate))] if certificate else []


def _by_event(key: str, event: Any, inside: bool = False, depth: int = 0) -> Told:
    """List the caller as a gateway found it: not the address, nor the program."""
    found: Told = []
    if isinstance(event, Mapping) and depth < 6:
        inside = inside or key.lower().endswith("authorizer")
        for name, value in event.items():
            low = str(name).lower()
            if low not in _UNNAMED and low != "headers" and low != "body":
                found += _by_event(f"{key}.{low}", value, inside or low in _OF_GATEWAYS, depth + 1)
    elif inside and _speaks(event):
        found.append((key, SURELY, _text(event)))
    return found


def _speaks(value: Any) -> bool:
    """Tell whether a value names a caller: it is not empty, and not an object that says that it is anonymous."""
    if value is None or value is False:
        return False
    if isinstance(value, (str, bytes)):
        return (value if isinstance(value, str) else value.decode("latin-1")).strip() not in _NOBODY
    try:
        if getattr(value, "is_authenticated", True) is False or getattr(value, "is_anonymous", False) is True:
            return False
        scopes = getattr(value, "scopes", None)  # Starlette's AuthCredentials
        return bool(value) and not (type(value).__name__ == "AuthCredentials" and not scopes)
    except Exception:
        return True


def _text(value: Any) -> str:
    """Return a text that stands for a value: a new one for each that cannot be compared."""
    if isinstance(value, (str, bytes, int, float)):
        return repr(value)
    if isinstance(value, Mapping):
        return repr(sorted((repr(key), _text(one)) for key, one in value.items()))
    if isinstance(value, (list, tuple)):
        return repr([_text(one) for one in value])
    return secrets.token_hex(16)
