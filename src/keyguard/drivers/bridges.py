"""Bridges between an ASGI app and a WSGI app: the layers on both sides share one state of the request.

A bridge (a2wsgi, asgiref, Starlette's) makes an environ of a scope, or a scope of an environ, and leaves out what it
does not know. So the state crosses in one of three ways:

- a2wsgi keeps the scope in the environ, and the environ in the scope: they are read there.
- Else a driver lists each request that its app is at work on, under the text of its scheme: the driver has put a text
  of its own there, and a bridge hands on the object. So state is taken over only by a request that came out of the same
  scope or environ, while that one's app runs. And the keys that the caller was known by have to stand in that request
  too: an app may have made another one of the old parts.
- A bridge that a driver stands directly around is taken apart and put together again, so that an app without a driver
  of its own inside finds them as well.

None of it is done in a process whose layers all stand on one side, as in most.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from copy import copy
from typing import Any

from keyguard.request import SHARED_ASGI, SHARED_WSGI, CarriedRequest, SharedState

_BRIDGES = {
    ("a2wsgi.wsgi", "WSGIMiddleware"): ("app", SHARED_WSGI),
    ("asgiref.wsgi", "WsgiToAsgi"): ("wsgi_application", SHARED_WSGI),
    ("starlette.middleware.wsgi", "WSGIMiddleware"): ("app", SHARED_WSGI),
    ("a2wsgi.asgi", "ASGIMiddleware"): ("app", SHARED_ASGI),
}
"""Bridges by module and name: the attribute that holds the app inside, and the key under which that app looks."""

crossing = False
"""Whether layers of both kinds have been made in this process, so that a request may cross from one to the other."""
_kinds: set[str] = set()

_passing: dict[int, tuple[CarriedRequest, str]] = {}
"""The requests that drivers have passed on to their apps, each with its mark, by the identity of that.

The mark is the scheme: a text that no other request has, for equal ones are different objects.
"""


def pass_on(request: CarriedRequest, scope: MutableMapping[str, Any], scheme: str) -> str:
    """Mark a scope or an environ that is about to go to the app. `scheme` is the key under which its scheme stands.

    Returns the mark, which `returned` takes off the list; it is empty if nothing was listed.
    """
    if not crossing:
        return ""
    text: str = scope.get(scheme) or ""
    if len(text) < 2:
        return ""  # there are never two different objects of such a text
    mark = scope[scheme] = text.encode().decode()  # equal, and another object
    _passing[id(mark)] = request, mark
    return mark


def returned(mark: str) -> None:
    """Note that the app has returned: whatever is kept of the request, no other one is taken for it."""
    if mark:
        del _passing[id(mark)]


def passed(scope: MutableMapping[str, Any], scheme: str) -> CarriedRequest | None:
    """Return the request of another layer that this scope or environ was made of, if it came over a bridge."""
    if not _passing:  # no request is on a bridge
        return None
    mark = scope.get(scheme)
    outer, listed = _passing.get(id(mark), _NOBODY)
    return outer if listed is mark else None


_NOBODY: tuple[CarriedRequest | None, object] = None, object()


def carry_over(request: CarriedRequest, scheme: str, kept: str, shared: str) -> None:
    """Give a request the state of layers on the other side of a bridge, if it came over one from there.

    `kept` is the key under which a2wsgi keeps the scope or environ of that side, and `shared` that of the state there.
    """
    scope = request.scope
    if kept in scope:
        before = scope[kept]
        found = before.get(shared) if isinstance(before, MutableMapping) else None
        if isinstance(found, SharedState):
            request.state, request.inherited = found, True
            return
    outer = passed(scope, scheme)
    if outer is not None and all(sources.read(request) == sources.read(outer) for sources in outer.state.sources):
        request.state, request.inherited = outer.state, True


# -- bridges that a driver stands directly around -------------------------------------------------------------------


def opened(app: Any, shared: str) -> Any:
    """Return the app itself or, if it is a bridge, one like it that shows the state to the app inside.

    `shared` is the key under which the layer that is made around it keeps its state.
    """
    _note_layer(shared)
    known = next(
        (known for base in type(app).__mro__ if (known := _BRIDGES.get((base.__module__, base.__name__)))), None
    )
    if known is None:
        return app
    attribute, shared_inside = known
    _note_layer(shared_inside)
    bridge = copy(app)
    carrying = _CarryingWSGI if shared_inside == SHARED_WSGI else _CarryingASGI
    setattr(bridge, attribute, carrying(getattr(app, attribute)))
    return bridge


def _note_layer(shared: str) -> None:
    global crossing
    _kinds.add(shared)
    crossing = len(_kinds) > 1


class _CarryingWSGI:
    """A WSGI app inside a bridge."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        _show(environ, SHARED_WSGI, "wsgi.url_scheme")
        return self.app(environ, start_response)


class _CarryingASGI:
    """An ASGI app inside a bridge."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        outer = _show(scope, SHARED_ASGI, "scheme")
        try:
            await self.app(scope, receive, send)
        except BaseException:
            if outer is not None:
                outer.state.broken = True  # a2wsgi tells of no error that comes after a last message
            raise


def _show(scope: dict[str, Any], shared: str, scheme: str) -> CarriedRequest | None:
    outer = passed(scope, scheme)
    if outer is not None:
        scope.setdefault(shared, outer.state)
    return outer
