"""For Django REST framework: authentication by keys, and throttles that count in the stack's store.

    REST_FRAMEWORK = {
        "DEFAULT_AUTHENTICATION_CLASSES": ["keyguard.django.rest.KeyAuthentication"],
        "DEFAULT_THROTTLE_CLASSES": ["keyguard.django.rest.UserRateThrottle"],
        "DEFAULT_THROTTLE_RATES": {"user": "1000/day"},
    }

The throttles have the names of REST framework's own, and their rates stand in the same places. All of it needs
`keyguard.django.Middleware`; without that, a view fails before it does anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

from django.conf import settings
from django.utils.module_loading import import_string
from rest_framework.authentication import BaseAuthentication
from rest_framework.exceptions import AuthenticationFailed
from rest_framework.settings import api_settings
from rest_framework.throttling import BaseThrottle

from keyguard.django.configured import MIDDLEWARE, configured_stack
from keyguard.errors import ConfigurationError
from keyguard.guards.api_keys import APIKeys
from keyguard.identity import Identity
from keyguard.refused import Refused
from keyguard.request import Request, RequestState
from keyguard.stack import Keyguard
from keyguard.stack.route_rules import RouteRule

__all__ = ["AnonRateThrottle", "KeyAuthentication", "KeyUser", "ScopedRateThrottle", "Throttle", "UserRateThrottle"]


# -- who calls --------------------------------------------------------------------------------------------------------


class KeyUser:
    """The user that stands for a key's holder, if the settings name none of Django's.

    It is authenticated, and has none of the rights of Django's users.
    """

    is_authenticated = True
    is_anonymous = False
    is_active = True
    is_staff = False
    is_superuser = False

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.pk = self.id = self.username = identity.subject

    def __str__(self) -> str:
        return self.username

    def __repr__(self) -> str:
        return f"<KeyUser {self.username}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, KeyUser) and other.pk == self.pk

    def __hash__(self) -> int:
        return hash(self.pk)

    def get_username(self) -> str:
        """Return the identity's subject."""
        return self.username

    def has_perm(self, perm: str, obj: Any = None) -> bool:
        """Return false: what a key may do, its scopes say."""
        return False

    def has_perms(self, perm_list: Any, obj: Any = None) -> bool:
        """Return false."""
        return False


class KeyAuthentication(BaseAuthentication):  # type: ignore[misc]  # REST framework ships no types
    """Make `request.user` and `request.auth` of the `Identity` that `APIKeys` has found.

    `request.auth` is the identity, and `request.user` a `KeyUser`; or what the function returns that `KEYGUARD_USER`
    names in the settings, `"package.module.function"`: it is called with the identity, and returns a user of Django's,
    or `None` if there is none for it, which is a 401. A request without a key is left to the next class.
    """

    def authenticate(self, request: Any) -> tuple[Any, Identity] | None:
        """Return the user and the identity. REST framework calls it."""
        identity = _state_of(request).identity
        if identity is None:
            raise ConfigurationError("KeyAuthentication needs an APIKeys in the stack, which looks for keys")
        if identity.anonymous:
            return None
        path = getattr(settings, "KEYGUARD_USER", None)
        if path is None:
            return KeyUser(identity), identity
        user_of: Callable[[Identity], Any] = import_string(path) if isinstance(path, str) else path
        user = user_of(identity)
        if user is None or not getattr(user, "is_active", True):
            raise AuthenticationFailed("The API key is valid, but its holder has no active user.")
        return user, identity

    def authenticate_header(self, request: Any) -> str:
        """Return the challenge of a 401, as `APIKeys` has it."""
        guards = configured_stack().guards
        return next((guard.challenge for guard in guards if isinstance(guard, APIKeys)), "Bearer")


def _state_of(request: Any) -> RequestState:
    state = getattr(getattr(request, "_request", request), "keyguard", None)
    if not isinstance(state, RequestState):
        raise ConfigurationError(f"keyguard.django.rest needs {MIDDLEWARE} in MIDDLEWARE")
    return state


# -- throttles --------------------------------------------------------------------------------------------------------

_who: ContextVar[str | None] = ContextVar("keyguard_throttled", default=None)


def throttled(request: Request) -> str | None:
    """Return under whose name a request counts that a throttle asks about."""
    return _who.get()


_rules: WeakKeyDictionary[Keyguard, dict[str, RouteRule[None]]] = WeakKeyDictionary()
"""The limits of each stack by their places."""


class Throttle(BaseThrottle):  # type: ignore[misc]  # REST framework ships no types
    """A throttle that counts in the store of the stack, exactly and for all processes.

    - `scope`: names the limit. All views that have throttles of one scope share it.
    - `rate`: `"100/day"`, or whatever `Keyguard.limit` takes; by default what `DEFAULT_THROTTLE_RATES` has for it.

    Callers are told by `Retry-After` when they are served again, and by the fields about limits what is left. A request
    that one throttle refuses is charged to none. If the store is out of order it does as `if_store_fails` says.
    """

    scope: str | None = None
    rate: Any = None
    if_store_fails: Any = "local"
    THROTTLE_RATES: ClassVar[Any] = None
    """The rates by scope, if not those of the settings."""

    def __init__(self) -> None:
        self._wait: float | None = None

    def caller(self, request: Any, view: Any) -> str | None:
        """Return under whose name a request counts; `None` if it does not.

        That is the user, and the client's address of one that is not authenticated.
        """
        return self.user(request) or self.address(request)

    def user(self, request: Any) -> str | None:
        """Return the name of the authenticated user, or `None`."""
        user = request.user
        return f"user {user.pk}" if user and user.is_authenticated else None

    def address(self, request: Any) -> str:
        """Return the client's address, as `trusted_proxies` of the stack tell it."""
        client = configured_stack().markers.place().request.client
        return "address " + ("unknown" if client is None else client.bucket)

    def get_scope(self, view: Any) -> str | None:
        """Return the scope for a view; `None` if it has none, so that it is not throttled."""
        return self.scope

    def get_rate(self, scope: str) -> Any:
        """Return the rate for a scope; `None` if there is no limit.

        Raises `ConfigurationError` if the settings have none.
        """
        if self.rate is not None:
            return self.rate
        rates = self.THROTTLE_RATES or api_settings.DEFAULT_THROTTLE_RATES
        if scope not in rates:
            raise ConfigurationError(f"DEFAULT_THROTTLE_RATES has no rate for {scope!r}, a scope of {type(self)!r}")
        return rates[scope]

    def rule(self, stack: Keyguard, scope: str) -> RouteRule[None] | None:
        """Return the limit of a scope in a stack; `None` if it has none.

        Raises `ConfigurationError` if it would share a counter, or its name, with another limit of the stack.
        """
        rate = self.get_rate(scope)
        if rate is None:
            return None
        rates = [*map(_read, rate)] if isinstance(rate, (list, tuple)) else [_read(rate)]
        place = " ".join([f"{__name__}.{scope}", *[one for one in rates if isinstance(one, str)]])
        known = _rules.setdefault(stack, {})
        rule = known.get(place)
        if rule is None:
            marker = stack.limit(*rates, by=throttled, if_store_fails=self.if_store_fails)
            rule = known[place] = marker.rule_at(place, scope)
        return rule

    def allow_request(self, request: Any, view: Any) -> bool:
        """Decide about a request. REST framework calls it. Raises `Refused` if the store cannot say."""
        stack = configured_stack()
        place = stack.markers.place()
        scope = self.get_scope(view)
        rule = None if scope is None else self.rule(stack, scope)
        if rule is None or (who := self.caller(request, view)) is None:
            return True
        token = _who.set(who)
        try:
            rule.ask(place)
        except Refused as refused:
            if refused.answer.status != 429:
                raise
            self._wait = refused.refusal.retry_after
            return False
        finally:
            _who.reset(token)
        return True

    def wait(self) -> float | None:
        """Return the seconds after which a request is admitted; `None` if waiting does not help."""
        return self._wait


_RATE = re.compile(r"(\d+)/(s|m|h|d)[a-z]*")
_PERIODS = {"s": "second", "m": "minute", "h": "hour", "d": "day"}


def _read(rate: Any) -> Any:
    """Return a rate as keyguard reads it: of a period REST framework looks at the first letter alone."""
    found = _RATE.fullmatch(rate) if isinstance(rate, str) else None
    return f"{found[1]}/{_PERIODS[found[2]]}" if found else rate


class UserRateThrottle(Throttle):
    """Limits each user, and each address of those that are not authenticated. Its scope is `user`."""

    scope = "user"


class AnonRateThrottle(Throttle):
    """Limits each address of callers that are not authenticated. Its scope is `anon`."""

    scope = "anon"

    def caller(self, request: Any, view: Any) -> str | None:
        """Return the address of a caller that is not authenticated."""
        return None if self.user(request) else self.address(request)


class ScopedRateThrottle(Throttle):
    """Limits each caller of the views that have one `throttle_scope`."""

    scope_attr = "throttle_scope"

    def get_scope(self, view: Any) -> str | None:
        """Return the view's `throttle_scope`."""
        return getattr(view, self.scope_attr, None)
