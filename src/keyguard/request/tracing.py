"""The trace that a request belongs to, and its span: of OpenTelemetry, if the process has it, else of `traceparent`.

Nobody has to ask for it: who has loaded `opentelemetry` has spans, and without it all this costs one look into a table.
"""

from __future__ import annotations

import re
from sys import modules
from typing import Any

from keyguard.refusal import Refusal
from keyguard.request.carried import CarriedRequest

SPANS = "opentelemetry.trace"
"""The module that has been loaded if a request can have a span. Who is in a hurry looks for it before calling these."""
_PARENT = re.compile(r"(?!ff)[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
"""The field `traceparent` (W3C Trace Context, section 3.2)."""
_LONGEST = 512  # characters of that field


def trace_of(request: CarriedRequest) -> str:
    """Return the trace of a request, 32 hexadecimal digits: of the span that is open now, else the one it came with.

    Empty if it has none.
    """
    if SPANS in modules:
        context = _current_span().get_span_context()
        if context.is_valid:
            return f"{context.trace_id:032x}"
    sent = request.header("traceparent")
    found = _PARENT.fullmatch(sent) if sent and len(sent) <= _LONGEST else None
    return found[1] if found is not None else ""


def mark_span(refusal: Refusal) -> None:
    """Write a refusal onto the span that is open now, if there is one."""
    if SPANS not in modules:
        return
    span = _current_span()
    if span.is_recording():
        span.set_attribute("error.type", refusal.cause.value)
        span.set_attribute("keyguard.reason", refusal.reason)
        if refusal.policies:
            span.set_attribute("keyguard.rules", refusal.policies)


def _current_span() -> Any:
    from opentelemetry.trace import get_current_span  # it is loaded, or another thread is just loading it

    return get_current_span()
