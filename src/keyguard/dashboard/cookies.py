"""The two cookies of the dashboard, and what they prove: who is logged in, and that a form is one of ours.

Rules:
- A cookie's name begins with `__Host-`: it is sent by TLS alone, and no other host can set it, not even a subdomain.
  Without TLS browsers refuse such cookies. In development, on this machine and with no proxy in between, the cookie has
  another name, and need not be `Secure`.
- A session is the id of a key, an end, and a code that nobody can make without the pepper and the key's record. The
  record is read at each request, so the session ends with the key.
- Where no pepper is set, the code is made with a secret of this process: that is right for a store which each process
  has for itself, and nowhere else; `auth="keys"` does not start then.
- The field `csrf` of forms is a digest of a cookie that only our pages get; the session's own, if there is one.
"""

from __future__ import annotations

import hmac
import re
import secrets
from base64 import urlsafe_b64encode
from hashlib import sha256
from typing import NamedTuple

from keyguard.clock import SECOND
from keyguard.dashboard.asked import Asked
from keyguard.keys import Peppers

SESSION, FORM = "keyguard-session", "keyguard-form"
LASTS = 8 * 3600
"""Seconds that a session lasts."""
_SESSION = re.compile(r"([0-9A-Za-z]{1,64})\.([0-9]{1,12})\.([0-9A-Za-z_-]{16})\.([0-9A-Za-z_-]{43})")
_NONCE = re.compile(r"[0-9A-Za-z_-]{22}")
_LABEL = b"dashboard"


class Session(NamedTuple):
    """The words of a cookie about a session. It is true if its code is right."""

    key_id: str
    end: int
    """In seconds of the Unix epoch."""
    said: bytes
    code: str


def read_cookie(asked: Asked, name: str) -> str:
    """Return the value of a cookie of ours; empty if there is none."""
    found = asked.request.cookies.get_all(f"__Host-{name}")
    if not found and asked.local:
        found = asked.request.cookies.get_all(name)
    return found[0] if len(found) == 1 else ""


def set_cookie(asked: Asked, name: str, value: str) -> str:
    """Return the field that sets a cookie until the browser ends, or takes it away if the value is empty."""
    until = "" if value else "; Max-Age=0"
    if asked.local:
        return f"{name}={value}; Path=/; HttpOnly; SameSite=Strict{until}"
    return f"__Host-{name}={value}; Path=/; Secure; HttpOnly; SameSite=Strict{until}"


def read_session(text: str) -> Session | None:
    """Return what a session's cookie says; `None` if it has another form."""
    found = _SESSION.fullmatch(text)
    if found is None:
        return None
    said, _, code = text.rpartition(".")
    return Session(found[1], int(found[2]), said.encode("ascii"), code)


class Signing:
    """Makes and compares the codes of sessions."""

    def __init__(self, peppers: Peppers) -> None:
        self._peppers = peppers
        self._own = secrets.token_bytes(32)

    def new(self, key_id: str, digest: bytes, now: int) -> str:
        """Return the cookie of a session that begins now, in microseconds, with a key whose record has this digest."""
        said = f"{key_id}.{now // SECOND + LASTS}.{secrets.token_urlsafe(12)}"
        return f"{said}.{self._codes(said.encode('ascii'), digest)[0]}"

    def right(self, session: Session, digest: bytes) -> bool:
        """Tell whether a session's code is right, by any of the peppers."""
        return any(hmac.compare_digest(code, session.code) for code in self._codes(session.said, digest))

    def _codes(self, said: bytes, digest: bytes) -> list[str]:
        """Return the codes under each pepper, the current one first. Everybody knows the label of version 0."""
        data = said + b"\0" + digest
        made = self._peppers.keyed(_LABEL, data)
        found = [made[version] for version in sorted(made, reverse=True) if version]
        if not self._peppers.current:
            found = [hmac.digest(self._own, data, "sha256")]
        return [_text(code) for code in found]


def new_nonce() -> str:
    """Return the value of a cookie for somebody who has no session."""
    return secrets.token_urlsafe(16)


def is_nonce(text: str) -> bool:
    """Tell whether a value is one that `new_nonce` may have returned."""
    return _NONCE.fullmatch(text) is not None


def token_of(cookie: str) -> str:
    """Return the field `csrf` of forms that go with a cookie."""
    return _text(sha256(b"keyguard form\0" + cookie.encode("latin-1", "replace")).digest())


def is_ours(asked: Asked, cookie: str) -> bool:
    """Tell whether a form was sent by a page of ours: by what the browser says of it, and by its field `csrf`.

    A browser that does not tell (`Sec-Fetch-Site`, which needs TLS or this machine) names the origin of each form.
    """
    site = asked.header("sec-fetch-site")
    if site:
        same = site == "same-origin"
    else:
        scheme, _, host = asked.header("origin").partition("://")
        same = scheme in ("http", "https") and bool(host) and host.lower() == asked.header("host").lower()
    sent = asked.form.get("csrf", "").encode("utf-8", "replace")
    return same and bool(cookie) and hmac.compare_digest(sent, token_of(cookie).encode("ascii"))


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
