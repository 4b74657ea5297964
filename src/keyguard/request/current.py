"""The request that the calling code works for, as a context variable tells it.

Stacks set it around their app, unless they have `handlers=False`: it costs each request two changes of its context.
Copies of a context know the request too: tasks, `asyncio.to_thread`, the threads that frameworks run views in. Once the
app has returned it is reset, and around each part of a body that a WSGI app makes later it is set again. A task that
goes on after the end of its request still finds that one, and never another's.
"""

from __future__ import annotations

from contextvars import ContextVar, Token

from keyguard.errors import ConfigurationError, OutsideRequest
from keyguard.request.carried import CarriedRequest
from keyguard.request.state import RequestState

_current: ContextVar[CarriedRequest | None] = ContextVar("keyguard_request", default=None)

noted = _current.get
"""Return the request that is noted here, or `None`."""
enter = _current.set
"""Note the request. What it returns is for `leave`."""
leave_here = _current.reset
"""Put back what was noted before, in the context in which `enter` was called: fast path of `leave`."""

_noting = False
"""Whether any stack of this process notes its requests."""


def leave(token: Token[CarriedRequest | None]) -> None:
    """Put back what was noted before."""
    try:  # noqa: SIM105 - `suppress` takes three times as long
        _current.reset(token)
    except ValueError:
        pass  # a coroutine that was left is closed from anywhere: that context has nothing of ours


def note_requests() -> None:
    """Take note that there is a stack which notes its requests: an error need not tell of the setting then."""
    global _noting
    _noting = True


def current_request(what: str = "here()") -> CarriedRequest:
    """Return the request that the calling code works for: that of the innermost layer that notes its requests.

    `at_end` of it runs work at once, if the request is over. `what` is called so in the errors: `OutsideRequest` if no
    request is known here, and `ConfigurationError` if no stack notes any.
    """
    request = _current.get()
    if request is None:
        if not _noting:
            raise ConfigurationError(f"{what} works in stacks that note their requests for it: {SETTING}")
        raise OutsideRequest(
            f"{what} was called outside of a request, or in a thread that does not know which one it works for. "
            "Threads know it that asyncio.to_thread or the framework starts; others, and loop.run_in_executor, have to "
            "be given it: contextvars.copy_context().run(function), with the context copied in the handler. If this "
            f"makes the body of a WSGI app that has told its Content-Length, {SETTING}"
        )
    request.asked_for = True
    return request


def here() -> RequestState:
    """Return what is known of the request that the calling handler works for, in any layer of keyguard.

    The same as `Keyguard.here`, for layers that are stacked one by one.
    """
    return current_request().state


SETTING = "make it Keyguard(..., handlers=True)"
