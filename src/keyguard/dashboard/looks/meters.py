"""Meters of limits, with notches where alerts are sent, and bars that compare parts of a whole."""

from __future__ import annotations

from markupsafe import Markup

from keyguard.dashboard.looks.formats import number
from keyguard.dashboard.looks.limits import Metered
from keyguard.dashboard.looks.svg import element, per_cent

_THICK = 8


def meter(of: Metered, limit: int) -> Markup:
    """Return the meter of a limit as SVG."""
    notches = [
        element("line", x1=per_cent(at / 100), x2=per_cent(at / 100), y1=_THICK + 2, y2=_THICK + 5, class_="notch")
        for at in of.notches
    ]
    used = of.used or 0
    return element(
        "svg",
        *_filled(of.part, _THICK, of.tone),
        *notches,
        class_="meter",
        width="100%",
        height=_THICK + 6,
        role="meter",
        aria_label=of.title,
        aria_valuemin=0,
        aria_valuemax=max(1, limit),
        aria_valuenow=min(used, max(1, limit)),
        aria_valuetext="not known" if of.used is None else f"{number(used)} of {number(limit)} used",
    )


def bar(part: float, kind: str = "served") -> Markup:
    """Return the bar of a part of a whole, 0 to 1. The number beside it says the same."""
    return element("svg", *_filled(part, 6, kind), class_="share", width="100%", height=6, aria_hidden="true")


def _filled(part: float, thick: int, kind: str) -> list[Markup]:
    whole = element("rect", width="100%", height=thick, rx=thick / 2, class_="track")
    if part <= 0:
        return [whole]
    return [whole, element("rect", width=per_cent(min(1.0, part)), height=thick, rx=thick / 2, class_=kind)]
