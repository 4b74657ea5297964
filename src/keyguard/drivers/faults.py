"""The outcome of refusals and of failures: what the log says, and the answer in place of a failed guard's.

A failure refuses the request, and blames nobody's key. No key gets into the log, whatever failed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from logging import INFO
from os import getpid
from sys import modules
from typing import Any

from keyguard.clock import SECOND
from keyguard.errors import StoreBusy, StoreError
from keyguard.http.fields import MOST_KEYS
from keyguard.logs import logger, plain, secret, story, without, word
from keyguard.problem import refuse_busy, refuse_for
from keyguard.refusal import Cause, Refusal
from keyguard.request import CarriedRequest
from keyguard.request.tracing import SPANS, mark_span
from keyguard.response import Response
from keyguard.uncounted import UNCOUNTED, refuse_uncounted

log = logger("keyguard")

FAULT_RETRY = SECOND
"""The wait that a caller is told of when keyguard itself could not decide, in microseconds."""


def tell_of_refusal(refusal: Refusal, notify: Callable[[Refusal], None] | None) -> None:
    """Tell the log of a refusal, or of one that did not happen, in shadow mode; whoever listens; and the open span."""
    if log.isEnabledFor(INFO):  # or nothing of the line is made
        log.info(
            "%s: cause=%s reason=%s status=%d request=%s trace=%s key=%s subject=%r client=%s limits=%s retry_after=%s "
            "method=%s route=%s",
            f"not refused, shadow of {word(refusal.guard)}" if refusal.shadow else "refused",
            refusal.cause,
            word(refusal.reason),
            refusal.status,
            word(refusal.request_id),
            refusal.trace_id or "-",
            word(refusal.key_id or "-"),
            refusal.subject,
            word(refusal.client or "unknown"),
            word(",".join(refusal.policies) or "-"),
            refusal.retry_after,
            word(refusal.method),
            word(refusal.route),
        )
    elif _told_in != getpid() and not refusal.shadow:
        _tell_where_more_is(refusal)
    if SPANS in modules and not refusal.shadow:
        mark_span(refusal)
    if notify is not None:
        try:
            notify(refusal)
        except Exception:
            log.exception("on_refusal failed")


_told_in = 0
"""The process that has been told where refusals are written. A forked one has to be told anew."""


def _tell_where_more_is(refusal: Refusal) -> None:
    """Tell, with the first refusal of a process, that the log could say why."""
    global _told_in
    _told_in = getpid()
    log.warning(
        "the first refusal of this process: status=%d cause=%s. Each has a line at INFO, which says why; it is not "
        "shown: logging.getLogger('keyguard').setLevel(logging.INFO), and a handler, show it",
        refusal.status,
        refusal.cause,
    )


def answer_failure(request: CarriedRequest, failure: BaseException, sources: Iterable[Any]) -> Response:
    """Return the refusal that stands for a failure. `sources` are where the guards of the stack look for keys."""
    if isinstance(failure, StoreBusy):
        return refuse_busy(request)
    if isinstance(failure, UNCOUNTED):  # a guard of the user's own asked for the path
        return refuse_uncounted(request, failure)
    if isinstance(failure, StoreError):
        if not failure.logged:
            log.error("the store failed: %s", plain(failure))
    else:
        keys = _keys(request, sources)
        if not any(map(secret, keys)):
            log.error("a guard failed", exc_info=failure)
        else:
            # As text: a traceback has the variables of a look-up, which error trackers show. And the text may hold
            # the key too, such as `KeyError: 'kg_live_...'`.
            log.error("a guard failed (any key is taken out of this):\n%s", without(keys, story(failure)))
    return refuse_for(
        request,
        Cause.FAULT,
        "The service cannot check requests at the moment. Your key and your limits are not the reason.",
        reason="store-failed" if isinstance(failure, StoreError) else "guard-failed",
        wait=FAULT_RETRY,
    )


def _keys(request: CarriedRequest, sources: Iterable[Any]) -> set[str]:
    """Return what the request carries and no log may hold."""
    keys = {request.header("x-api-key") or "", *getattr(request, "stripped", ())}
    for member in (request.header("authorization") or "").split(",", MOST_KEYS):
        keys.add(member.strip().partition(" ")[2].strip())
    for places in (*sources, *request.state.sources):
        with suppress(ValueError):  # it may be what failed
            keys |= places.read(request)
    return keys
