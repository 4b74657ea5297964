"""Decorators by which a route says how it may be cached: `cache_control(...)` and `vary(...)`.

    @app.get("/products")                                           # Flask, Django, Starlette: above the view
    @cache_control(max_age=60, swr=30, tags=["products"])
    def products(): ...

    @app.get("/products", dependencies=[Depends(cache_control(max_age=60))])            # FastAPI, either way

The view runs somewhere below the cache, maybe in another thread, so it cannot reach the response's head. It notes its
wish in a context variable that the cache has set, and the cache sets the fields when the head comes. Fields that the
app has set itself are left as they are.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Awaitable, Callable, Generator, Iterable
from contextvars import ContextVar
from typing import Any, TypeVar, overload

from keyguard.errors import ConfigurationError
from keyguard.flow import is_async
from keyguard.guards.cache.settings import check_flags, field_names, texts
from keyguard.process.event_loops import in_loop
from keyguard.request import CarriedRequest, Forward
from keyguard.response import Headers, Response
from keyguard.units import Duration, seconds

View = TypeVar("View", bound=Callable[..., Any])


class Marks:
    """The wishes of the route that answers one request."""

    __slots__ = ("marks",)

    def __init__(self) -> None:
        self.marks: list[CacheControl] = []

    def apply(self, status: int, headers: Headers) -> None:
        """Set the fields that the app has not set itself."""
        for mark in self.marks:
            mark.apply(status, headers)


_current: ContextVar[Marks | None] = ContextVar("keyguard_cache_marks", default=None)


async def ask_app(request: CarriedRequest, forward: Forward) -> Response:
    """Call the app, and set what the decorators of its route say."""
    marks = Marks()
    _current.set(marks)  # never reset: the app may run in another task
    response = await forward(request)
    marks.apply(response.status, response.headers)
    return response


class _Noted:
    """The awaitable that a dependency returns: it is done at once."""

    def __await__(self) -> Generator[Any, Any, None]:
        return
        yield


_NOTED = _Noted()
_CLOSING = frozenset({"private", "no-cache", "no-store", "must-revalidate"})


class CacheControl:
    """Header fields for a route: a decorator of its view, or a dependency for FastAPI."""

    def __init__(self, control: str, vary: tuple[str, ...], tags: tuple[str, ...]) -> None:
        self.control = control
        """The value of `Cache-Control`; empty for none."""
        self.closing = ", ".join(word for word in control.split(", ") if word in _CLOSING)
        """The directives of it that only forbid."""
        self.vary = vary
        self.tags = tags
        # FastAPI looks here whether it must run a dependency in a thread, which would cost more than this one does.
        self.__dict__["__call__"] = self._as_dependency

    async def _as_dependency(self) -> None:
        self._note()

    def _note(self) -> None:
        marks = _current.get()
        if marks is not None:
            marks.marks.append(self)

    def __repr__(self) -> str:
        return f"<CacheControl {self.control!r}>"

    @property
    def __signature__(self) -> inspect.Signature:
        """The signature that FastAPI reads: a dependency without parameters."""
        return inspect.Signature()

    @overload
    def __call__(self) -> Awaitable[None] | None: ...
    @overload
    def __call__(self, view: View) -> View: ...

    def __call__(self, view: Callable[..., Any] | None = None) -> Any:
        if view is None:
            self._note()
            return _NOTED if in_loop() else None  # FastAPI awaits it
        if not callable(view) or isinstance(view, type):
            raise ConfigurationError(f"a decorator stands above a view, a function or a method, not {view!r}")
        if is_async(view):

            @functools.wraps(view)
            async def marked_async(*args: Any, **kwargs: Any) -> Any:
                self._note()
                return await view(*args, **kwargs)

            return marked_async

        @functools.wraps(view)
        def marked(*args: Any, **kwargs: Any) -> Any:
            self._note()
            return view(*args, **kwargs)

        return marked

    def apply(self, status: int, headers: Headers) -> None:
        """Set the fields that the app has not set.

        An error gets no lifetime: the route speaks of its answers, not of bad requests, failures and callers that were
        not let in.
        """
        control = self.control if status < 400 else self.closing
        if control and "Cache-Control" not in headers:
            headers.add("Cache-Control", control)
        if self.vary:
            present = {name.strip().lower() for line in headers.get_all("Vary") for name in line.split(",")}
            for name in self.vary:
                if name not in present and "*" not in present:
                    headers.join("Vary", name)
        if self.tags and "Cache-Tag" not in headers:
            headers.add("Cache-Tag", ", ".join(self.tags))


def cache_control(
    *,
    max_age: Duration | None = None,
    s_maxage: Duration | None = None,
    swr: Duration | None = None,
    sie: Duration | None = None,
    public: bool = False,
    private: bool = False,
    no_cache: bool = False,
    no_store: bool = False,
    must_revalidate: bool = False,
    immutable: bool = False,
    vary: Iterable[str] = (),
    tags: Iterable[str] = (),
) -> CacheControl:
    """Return a decorator of a view, or a FastAPI dependency, that sets `Cache-Control` on a route's responses.

    - `max_age`, `s_maxage`: how long a response is fresh (seconds, a `timedelta`, or a text such as `"1h"`), in any
      cache, and in shared ones (RFC 9111, 5.2.2).
    - `swr`, `sie`: how long it may be served stale while it is refreshed, and if the app fails (RFC 5861).
    - `public`: it is the same for all callers, those with credentials too (5.2.2.9).
    - `private`: it is one caller's own (5.2.2.7). `no_store`, `no_cache`, `must_revalidate`: 5.2.2.
    - `immutable`: it does not change while it is fresh (RFC 8246).
    - `vary`: request fields by which it is chosen. `tags`: names for `ResponseCache.purge(tag=...)`.

    Fields that a response sets itself are left as they are, and an error gets no lifetime. Raises `ConfigurationError`
    for settings that make no sense.
    """
    flags = {
        "public": public,
        "private": private,
        "no-cache": no_cache,
        "no-store": no_store,
        "must-revalidate": must_revalidate,
        "immutable": immutable,
    }
    check_flags(**{name.replace("-", "_"): flag for name, flag in flags.items()})
    if private and (public or s_maxage is not None):
        raise ConfigurationError("private and public (or s_maxage) contradict each other")
    numbers = {
        "max-age": max_age,
        "s-maxage": s_maxage,
        "stale-while-revalidate": swr,
        "stale-if-error": sie,
    }
    if no_store and (public or any(value is not None for value in numbers.values())):
        raise ConfigurationError("no_store and a lifetime contradict each other")
    words = [name for name, flag in flags.items() if flag]
    words += [f"{name}={seconds(name, value, max='3650 days')}" for name, value in numbers.items() if value is not None]
    found = texts("tags", tags)
    for tag in found:
        if not tag.isascii() or not tag.isprintable() or set(tag) & set(", "):
            raise ConfigurationError(f"a tag is printable ASCII text without commas and blanks, not {tag!r}")
    names = field_names("vary", vary)
    if not words and not names and not found:
        raise ConfigurationError("cache_control() says nothing: give it a setting, such as max_age=60")
    return CacheControl(", ".join(words), names, found)


def vary(*names: str) -> CacheControl:
    """Return a decorator or a FastAPI dependency that names request fields by which a route's responses are chosen."""
    if not names:
        raise ConfigurationError("vary() names at least one header field, such as vary('Accept-Language')")
    return cache_control(vary=names)
