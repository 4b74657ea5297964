"""The methods of `Keyguard` for views and routers of an app: limits and keys at routes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakSet

from keyguard.body_fields import BodyField
from keyguard.chain import Chain
from keyguard.counter_names import LimitFacts
from keyguard.drivers.interpreter import Engine
from keyguard.errors import ConfigurationError
from keyguard.guard import Guard
from keyguard.guards.rate_limit.guard import Profile, RateLimit, Rates, Tell
from keyguard.guards.rate_limit.settling import Refunds, Settler
from keyguard.http.forwarding import ClientAddress
from keyguard.lazy import instances_of
from keyguard.ops import Store
from keyguard.request import Request
from keyguard.request.current import SETTING, note_requests
from keyguard.selection import By, Setting
from keyguard.stack.counters import claim, facts_of
from keyguard.stack.for_handlers import ForHandlers
from keyguard.stack.needs import unmet_needs
from keyguard.stack.settings import checked_prefix
from keyguard.stack.written import StackNote
from keyguard.stores.circuit_breaker import CircuitBreaker
from keyguard.without_store import FailureMode

if TYPE_CHECKING:
    from keyguard.guards.api_keys import APIKeys
    from keyguard.stack.markers import KeyMarker, LimitMarker, Markers
    from keyguard.stack.route_rules import RouteRule


class ForRoutes(ForHandlers):
    """The part of `Keyguard` that is for views and routers."""

    _chain: Chain
    _declared: list[Guard]
    _engines: WeakSet[Engine]
    _handlers_setting: bool | None
    _home: Store
    _is_layer: bool
    _overrides_on: bool
    _source: ClientAddress
    _stacked: tuple[Any, ...]
    _note: StackNote
    _watched: CircuitBreaker | None

    def limit(
        self,
        *rates: Rates | Callable[[Request], Any],
        by: By | None = None,
        cost: Setting[int] = 1,
        when: Setting[bool] | None = None,
        exempt: Setting[bool] | None = None,
        methods: Iterable[str] | None = None,
        plans: Mapping[str, Rates | Sequence[Rates] | None] | None = None,
        default: Rates | Sequence[Rates] | None = None,
        name: str | None = None,
        headers: Profile | Sequence[Profile] | None = "draft-11",
        tell: Tell = "all",
        if_store_fails: FailureMode = "local",
        settle: Settler | None = None,
        refund_on: Refunds | None = None,
        count: Literal["requests", "failures"] = "requests",
        failures: Iterable[int | str] | None = None,
    ) -> LimitMarker:
        """Return a limit for views and routers: a decorator, and a dependency for FastAPI.

            @app.get("/search")
            @guard.limit("5/minute")
            async def search() -> ...

            @app.get("/export", dependencies=[Depends(guard.limit("1/minute"))])

        The settings are those of `RateLimit`. By default it counts `by="key"` if an `APIKeys` stands in the stack, else
        by the client's address. Each view that it stands on has a counter of its own, named after the view, whatever
        the path; a router's is one for all its routes. With a `name` all of these share one counter.

        It is decided inside the app, and the stack must stand around that. A request that it refuses is charged to no
        limit, not to those outside either; the fields about limits tell of all. FastAPI reads the body of a request
        before any dependency, so a limit there does not spare the app an upload: one of the stack does.

        Raises `ConfigurationError` for a setting that is wrong, if it counts by keys and the stack looks for none, and
        for a name that another limit has.
        """
        from keyguard.stack.markers import LimitMarker

        self._check_notes("limit()")
        if isinstance(by, BodyField):
            raise ConfigurationError(
                "limit() counts by nothing of the body, which the app has begun to read when its routes are asked: put "
                "RateLimit(..., by=json_field(...), paths=[...]) into the stack"
            )
        if by is None and plans is None:
            by = "key" if self._keys_guard is not None else "ip"
        settings = {
            "by": by,
            "cost": cost,
            "when": when,
            "exempt": exempt,
            "methods": methods if methods is None or isinstance(methods, str) else [*methods],
            "plans": plans,
            "default": default,
            "name": name,
            "headers": headers,
            "tell": tell,
            "if_store_fails": if_store_fails,
            "settle": settle,
            "refund_on": refund_on,
            "count": count,
            "failures": failures,
        }
        marker = LimitMarker(self.markers, rates, settings)
        if unmet_needs([*self._stacked, marker.limit]) and not self._is_layer:
            raise ConfigurationError(
                f"limit() counts by {by or 'subject'}, and no APIKeys of the stack finds the caller"
            )
        return marker

    def key(self, *, scopes: str | Iterable[str] = ()) -> KeyMarker:
        """Return what lets callers with a valid key alone into views and routers: a decorator, and a dependency.

            @app.post("/items")
            async def create(identity: Annotated[Identity, Depends(guard.key(scopes=["write"]))]) -> ...

        The stack's `APIKeys` has found the caller; this says that there must be one, and with which scopes. As a
        dependency it returns the `Identity`. Other callers get the 401 or 403 of `APIKeys`.

        Raises `ConfigurationError` for a scope that is none, and if the stack has no `APIKeys`.
        """
        from keyguard.guards.api_keys.settings import needed_scopes
        from keyguard.stack.markers import KeyMarker

        self._check_notes("key()")
        keys = self._keys_guard
        if keys is None:
            raise ConfigurationError("key() needs an APIKeys in the stack, which looks for the caller's key")
        if callable(scopes):
            raise ConfigurationError("scopes of key() are a list of names, such as ['write'], not a function")
        return KeyMarker(self.markers, keys, needed_scopes(scopes) or frozenset())

    def install_openapi(self, app: Any, *, prefix: str = "") -> None:
        """Add to the OpenAPI document of a FastAPI app what the stack does: so `/docs` has locks, and "Authorize".

            guard.install_openapi(app)

        Each way of sending a key is a security scheme. Operations that need one have a lock: as the `APIKeys` of the
        stack says by its paths, and as its policies and rules at routes do; one that has a further condition is
        optional there. The answers 401, 403, 429 and 503 are there where the stack may give them, with their fields.
        All that the app says itself of an operation stays. `prefix` is where the app is mounted in the one that the
        stack stands around, if it is.

        Raises `ConfigurationError` for what is not a FastAPI app, and if it is called twice for one.
        """
        from keyguard.stack.openapi import install
        from keyguard.stack.placed import placed

        install([*placed(self._stacked)], app, checked_prefix(prefix) or "")

    @cached_property
    def markers(self) -> Markers:
        """Return all rules at routes that this stack has: see `keyguard.stack.markers`."""
        from keyguard.stack.expected_routes import ExpectantGuard
        from keyguard.stack.markers import Markers

        self._innermost = ExpectantGuard(self)
        self._innermost.open = not self._guarding
        self._chain.add(self._innermost)
        self._notes = True
        note_requests()
        for engine in self._engines:
            engine.notes, engine.idle = True, False
        return Markers(self, self.store if self._watched is None else None, self._begin_rule)

    def expect_rules(self) -> None:
        """Be ready for rules at routes that are made while the first request is under way.

        Layers of frameworks call it that load views late. In a stack with `handlers=False` there are no such rules.
        """
        if self._handlers_setting is not False:
            _ = self.markers

    def check_routes(self, app: Any, around: Iterable[object] = ()) -> None:
        """Compare the rules at the routes of an app with the routes it has. A layer does it when its app begins.

        `around` are the stacks further out. Raises `ConfigurationError` for a rule that would not be asked, or twice.
        """
        from keyguard.stack.route_checks import check_bottle, check_routes

        markers: Markers | None = vars(self).get("markers")
        check_bottle(markers, app)
        try:
            routes = check_routes(self, markers, app, around)
        except ConfigurationError:
            raise
        except Exception:  # the routes of an app that only looks like Starlette's
            if markers is not None:
                raise
            return
        if routes and markers is not None:
            from keyguard.stack.expected_routes import Routes

            self._innermost.expect(app, Routes(routes))

    def _limits_at_routes(self) -> list[RateLimit]:
        rules = self.markers.rules if "markers" in vars(self) else ()
        return [*{id(rule.limit): rule.limit for rule in rules if rule.limit is not None}.values()]

    @property
    def _keys_guard(self) -> APIKeys | None:
        return next(iter(instances_of(self.guards, "keyguard.guards.api_keys.guard", "APIKeys")), None)

    def _begin_rule(self, rule: RouteRule[Any]) -> None:
        limit = rule.limit
        if limit is not None:
            claim(self._home, [limit], self.guards)
            self._note.add(self._facts([limit]))
            if limit.settling is not None:
                self._innermost.heard = True

    def _facts(self, guards: Iterable[Any]) -> list[LimitFacts]:
        return facts_of(guards, ipv6_prefix=self._source.ipv6_prefix, overrides=self._overrides_on)

    def _check_notes(self, what: str) -> None:
        if self._handlers_setting is False:
            raise ConfigurationError(f"{what} works in stacks that note their requests for it: {SETTING}")
