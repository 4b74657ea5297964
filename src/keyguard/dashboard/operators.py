"""The operators: those who may see the dashboard, and those who may change something.

A function of the app's knows them, or a key does.

Rules:
- It fails closed. If a function fails, or a key's record cannot be read, nobody is let in that was not here just now.
- A session lives as long as its key: the record is read at each request. While the store is out of order those who were
  let in within the last five minutes, by the same process, may go on to look.
- Wrong keys count against the address that they come from, by the limits on guesses of the app's `APIKeys`.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from keyguard.checks import is_name
from keyguard.clock import SECOND
from keyguard.dashboard.asked import Asked
from keyguard.dashboard.cookies import SESSION, Signing, read_cookie, read_session, set_cookie
from keyguard.dashboard.service import Service
from keyguard.errors import ConfigurationError, StoreError
from keyguard.guards.api_keys import APIKeys
from keyguard.http.addresses import Networks
from keyguard.keys import KeyRecord, Peppers, parse_key, record_key
from keyguard.keys.record import decode, read_head, trusted
from keyguard.ops import Authenticate, ReadWithTime, Take, traits_of
from keyguard.units import as_datetime

ADMIN, READ = "keyguard:admin", "keyguard:read"
"""The scopes of keys that may change something, and of those that may look."""
_WITHOUT_STORE = 300 * SECOND
_MOST = 256
_LONGEST = 200


class Operator(NamedTuple):
    """Somebody who is let in."""

    name: str
    """For the page, and for the audit log."""
    may_change: bool
    cookie: str = ""
    """The cookie of the session, if there is one."""
    seen: bool = True
    """Whether the store has vouched for it just now."""


Why = Literal["", "wrong", "ended", "not-allowed", "too-many", "store-down", "insecure"]
"""Why somebody is not let in; empty for somebody who has not tried."""


class ByKey:
    """Operators who log in with a key of the scope `keyguard:admin` or `keyguard:read`."""

    def __init__(self, service: Service) -> None:
        guard = service.api_keys
        if guard is None or service.registry is None:
            raise ConfigurationError(
                "auth='keys' needs an APIKeys in this stack whose keys are issued by keyguard; else give auth=function"
            )
        if not guard.peppers.current and not traits_of(service.store).of_one_process:
            raise ConfigurationError(
                "auth='keys' signs sessions with the pepper, and none is set. Set KEYGUARD_PEPPER to a secret, such as "
                "secrets.token_hex(16), the same for all processes; if this store holds keys already, write it as "
                "1:SECRET,0: and they go on to work"
            )
        self._service = service
        self._guard: APIKeys = guard
        self._peppers: Peppers = guard.peppers
        self._signing = Signing(guard.peppers)
        self._seen: dict[str, tuple[int, Operator]] = {}
        """By the cookie: when the store has vouched for whom. For when it cannot."""

    def find(self, asked: Asked) -> Operator | Why:
        """Return who asks, or why that is nobody. Raises `StoreError` if the store fails, and it is not known."""
        cookie = read_cookie(asked, SESSION)
        session = read_session(cookie)
        if session is None:
            return ""
        try:
            stored, now = self._record(session.key_id)
        except StoreError:
            at, known = self._seen.get(cookie, (0, None))
            if known is None or self._service.clock() - at > _WITHOUT_STORE:
                raise
            return known._replace(may_change=False, seen=False)
        operator: Operator | Why = "ended"
        if (
            stored is not None
            and now < session.end * SECOND
            and trusted(stored, self._peppers)
            and self._signing.right(session, read_head(stored).digest)
        ):
            operator = self._admitted(asked, decode(stored), now, cookie)
        if isinstance(operator, str):
            self._seen.pop(cookie, None)
        else:
            while len(self._seen) >= _MOST and cookie not in self._seen:
                self._seen.pop(next(iter([*self._seen]), ""), None)
            self._seen[cookie] = self._service.clock(), operator
        return operator

    def log_in(self, asked: Asked) -> str | Why:
        """Return the cookie of a new session, for the key in a form, or why there is none.

        Raises `StoreError` if the store fails.
        """
        key = parse_key(asked.form.get("key", ""))
        store, guard = self._service.store, self._guard
        records = guard.records
        guess = records.guess_of(asked.request)
        if guess and records.refusals.get(guess[0].key, self._service.clock()) is not None:
            return "too-many"
        if key is not None and key.prefix == guard.prefix and guard.env in (None, key.env):
            found = store.execute([Authenticate(record_key(key.id), self._peppers.digests(key))])[0]
            if found.valid and trusted(found.record, self._peppers):
                operator = self._admitted(asked, decode(found.record), found.at, "")
                if isinstance(operator, str):
                    return operator
                return self._signing.new(key.id, read_head(found.record).digest, found.at)
        if guess:
            taken = store.execute([Take(guess)])[0]
            if taken.refused:
                records.refusals.keep(guess[0].key, taken, self._service.clock())
                return "too-many"
        return "wrong"

    def log_out(self, asked: Asked) -> str:
        """Return the field that takes the cookie away."""
        self._seen.pop(read_cookie(asked, SESSION), None)
        return set_cookie(asked, SESSION, "")

    def _record(self, key_id: str) -> tuple[bytes | None, int]:
        read: Any = self._service.store.execute([ReadWithTime(record_key(key_id))])[0]
        now, (stored,) = read
        return stored, now

    def _admitted(self, asked: Asked, record: KeyRecord, now: int, cookie: str) -> Operator | Why:
        if record.status(as_datetime(now)) not in ("active", "rotating"):
            return "ended"
        if record.networks:
            client = asked.request.client
            if client is None or client not in Networks(record.networks):
                return "not-allowed"
        if not record.scopes & {ADMIN, READ}:
            return "not-allowed"
        return Operator(_named(record), ADMIN in record.scopes, cookie)


def _named(record: KeyRecord) -> str:
    """Return what an operator is called in the audit log: by the key's name, and its id."""
    name = f"{record.name or record.owner} ({record.id})"
    return name if is_name(name, _LONGEST) else record.id


def named_operator(found: object) -> str:
    """Return the name that a function of the app's has given. Raises `TypeError` for what is none."""
    if is_name(found, _LONGEST):
        return found
    raise TypeError(
        f"auth returned {type(found).__name__}: it returns the operator's name, a printable text of at most {_LONGEST} "
        "characters, or None for somebody who is not let in"
    )
