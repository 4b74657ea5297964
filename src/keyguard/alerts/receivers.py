"""Receivers: where alerts go besides the log. All are called in a thread of their own, never on a request.

A receiver has a name, under which its deliveries stand in the store: the same in all processes, without a secret in it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import logging
import re
from collections.abc import Callable, Iterable, Mapping
from importlib.util import find_spec
from typing import Any, Protocol, TypeAlias, runtime_checkable

from keyguard.alerts.messages import AlertMessage, body_of
from keyguard.alerts.posting import Failed, checked_target, post
from keyguard.checks import is_name
from keyguard.clock import SECOND, wall_clock
from keyguard.errors import ConfigurationError
from keyguard.flow import is_async
from keyguard.logs import without

_LONGEST = 80  # characters of a name
_LEAST_SECRET = 24  # bytes, as Standard Webhooks recommend
_GONE = 410


class Gone(Exception):
    """The receiver wants nothing more, now and later."""


@runtime_checkable
class Receiver(Protocol):
    """Something that alerts are delivered to."""

    name: str

    def deliver(self, message: AlertMessage) -> None:
        """Deliver a message. Raise an error if that failed, whose text holds no secret; it is tried again then."""
        ...


AlertReceiver: TypeAlias = "Receiver | Callable[[AlertMessage], object]"
"""A `Webhook`, `slack(...)`, `notify(...)`, an object with a `name` and a `deliver`, or a plain function."""


class Webhook:
    """Sends alerts to a URL as Standard Webhooks describe it, signed, so that who receives them can check each one.

    - `url`: an https URL. An address inside of one's own network is refused, also if its name leads there later.
    - `secret`: what the receiver checks signatures with: `whsec_` and at least 24 bytes in base64. Take it from the
      environment. Several, the newest first, sign with each: so secrets can be changed without a gap.
    - `name`: stands in the store, the log, and on the page; by default the host.
    - `allow_local`: lets the URL be one of this machine, such as `http://127.0.0.1:8000/`: for development.

    It follows no redirects, and has five seconds. An answer from 200 to 299 is a delivery. After another one, or none,
    it is tried again after 5 seconds, 5 minutes, 30 minutes, 2, 5 and 10 hours; 410 says that nothing more is to come.

    Raises `ConfigurationError` for a URL or a secret that is wrong.
    """

    def __init__(
        self, url: str, secret: str | Iterable[str], *, name: str | None = None, allow_local: bool = False
    ) -> None:
        self._target = checked_target("Webhook", url, local=allow_local)
        several = isinstance(secret, Iterable) and not isinstance(secret, (str, bytes))
        self._secrets = [_secret(one) for one in (secret if several else [secret])]
        if not self._secrets:
            raise ConfigurationError("Webhook needs a secret, with which it signs")
        self.name = _named("webhook", name or self._target.host, url)

    def __repr__(self) -> str:
        return f"<Webhook {self._target.host}>"

    def deliver(self, message: AlertMessage) -> None:
        """Send a message."""
        body = body_of(message)
        at = str(wall_clock() // SECOND)  # when it is sent: receivers refuse what is old
        signed = [
            base64.b64encode(hmac.digest(secret, f"{message.id}.{at}.".encode() + body, "sha256")).decode()
            for secret in self._secrets
        ]
        fields = {
            "Content-Type": "application/json",
            "webhook-id": message.id,
            "webhook-timestamp": at,
            "webhook-signature": " ".join([f"v1,{one}" for one in signed]),
        }
        _check(self._target.host, post(self._target, body, fields))


def _secret(text: object) -> bytes:
    bare = text.removeprefix("whsec_") if isinstance(text, str) else ""
    try:
        found = base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True)
    except (binascii.Error, ValueError):
        found = b""
    if len(found) < _LEAST_SECRET:
        raise ConfigurationError(
            "the secret of a Webhook is 'whsec_' and at least 24 random bytes in base64: make one with "
            "python -c \"import base64, os; print('whsec_' + base64.b64encode(os.urandom(32)).decode())\""
        )
    return found


class _Slack:
    def __init__(self, url: str, name: str | None, allow_local: bool) -> None:
        self._target = checked_target("slack()", url, local=allow_local)
        self.name = _named("slack", name or self._target.host, url)

    def __repr__(self) -> str:
        return f"slack({self._target.host!r})"

    def deliver(self, message: AlertMessage) -> None:
        sign = {"critical": ":red_circle:", "warning": ":large_yellow_circle:", "resolved": ":large_green_circle:"}
        text = f"{sign[message.severity]} *{_escaped(message.title)}*\n{_escaped(message.text)}"
        body = json.dumps({"text": text}).encode()
        _check(self._target.host, post(self._target, body, {"Content-Type": "application/json"}))


def slack(url: str, *, name: str | None = None, allow_local: bool = False) -> Receiver:
    """Return what sends alerts to an incoming webhook of Slack, or of whatever takes the same JSON.

    The URL is a secret: it stands in no log and in no store. It is checked as that of a `Webhook` is, and tried again
    likewise. Raises `ConfigurationError` for a URL that is wrong.
    """
    return _Slack(url, name, allow_local)


def _escaped(text: str) -> str:
    """Have a text mean itself: no link, and nobody is called."""
    for sign, escape in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        text = text.replace(sign, escape)
    return text


class _Notify:
    def __init__(self, url: str, name: str | None) -> None:
        if not isinstance(url, str) or "://" not in url:
            raise ConfigurationError("notify() takes a URL of apprise, such as mailto://user:password@example.com")
        if find_spec("apprise") is None:
            raise ConfigurationError("notify() needs the package apprise: pip install 'keyguard[apprise]'")
        self._url = url
        self._veil = _Veil(url)
        self.name = _named("notify", name or url.partition("://")[0], url)

    def __repr__(self) -> str:
        return f"notify({self._url.partition('://')[0]!r})"

    def deliver(self, message: AlertMessage) -> None:
        import apprise  # only here: it is large, and in this thread it may take its time

        apprise.logger.addFilter(self._veil)  # one that is there already is not added again
        there = apprise.Apprise()
        if not there.add(self._url):
            raise Failed("apprise does not know such a URL")
        kind = {"critical": "failure", "warning": "warning", "resolved": "success"}[message.severity]
        if not there.notify(title=message.title, body=message.text, notify_type=kind):
            raise Failed("apprise could not deliver it")


class _Veil(logging.Filter):
    """Takes the parts of a URL that may be secrets out of what apprise logs of it."""

    def __init__(self, url: str) -> None:
        super().__init__()
        rest = url.partition("://")[2]
        self._secrets = {url, rest, *re.split(r"[/:@?&=]", rest)}

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = without(self._secrets, record.getMessage()), ()
        return True


def notify(url: str, *, name: str | None = None) -> Receiver:
    """Return what sends alerts by mail, chat or telephone: a URL of apprise, such as `"mailto://..."`.

    It needs the extra `apprise`. The URL holds secrets: it stands in no log and in no store. It goes where you say,
    also inside of your network. Raises `ConfigurationError` if the package is missing, or for what is no URL.
    """
    return _Notify(url, name)


class _Function:
    def __init__(self, function: Callable[[AlertMessage], object]) -> None:
        self._function = function
        name = str(getattr(function, "__qualname__", type(function).__qualname__))
        self.name = _named("function", name.rpartition("<locals>.")[2][-_LONGEST:])

    def __repr__(self) -> str:
        return repr(self._function)

    def deliver(self, message: AlertMessage) -> None:
        self._function(message)


def receivers_from(given: object) -> list[Receiver]:
    """Return the receivers that a setting names.

    Raise `ConfigurationError` for what is none, and for two of one name.
    """
    if isinstance(given, (str, bytes, Mapping)) or not isinstance(given, Iterable):
        raise ConfigurationError(f"to is a list of receivers, such as [Webhook(url, secret)], not {_kind(given)}")
    found: list[Receiver] = []
    for one in given:
        if isinstance(one, Receiver) and not isinstance(one, type):
            if not is_name(one.name, 2 * _LONGEST):
                raise ConfigurationError(f"the name of a receiver is a printable text, not {one.name!r:.80}")
            found.append(one)
        elif not callable(one) or isinstance(one, type):
            raise ConfigurationError(
                f"a receiver is a Webhook, slack(...), notify(...) or a function, not {_kind(one)}"
            )
        elif is_async(one):
            raise ConfigurationError(f"{one!r} is async: receivers are called in a thread, so give a plain function")
        else:
            found.append(_Function(one))
    names = [one.name for one in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ConfigurationError(f"two receivers are called {twice!r}: give one of them another name=")
    return found


def _kind(thing: Any) -> str:
    return f"the text of {len(thing)} signs" if isinstance(thing, str) else f"a {type(thing).__name__}"


def _named(kind: str, name: str, secret: str = "") -> str:
    """Name a receiver. Its URL, if it has one, is told by a few bits of a digest: another one is another receiver."""
    if not is_name(name, _LONGEST):
        raise ConfigurationError(f"name is a printable text of 1 to {_LONGEST} characters, not {name!r:.80}")
    mark = f" #{hashlib.blake2b(secret.encode(), digest_size=2).hexdigest()}" if secret else ""
    return f"{kind} {name}{mark}"


def _check(host: str, status: int) -> None:
    if status == _GONE:
        raise Gone(f"{host} answers 410, so nothing more is sent there")
    if not 200 <= status <= 299:
        where = ", and redirects are not followed" if 300 <= status <= 399 else ""
        raise Failed(f"{host} answers {status}{where}")
