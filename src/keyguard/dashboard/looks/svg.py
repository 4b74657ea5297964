"""Elements of SVG as text: names and values are escaped, and nothing in them is style or script.

The page's policy forbids the attribute `style`. So colours are classes, and places and sizes are attributes: across in
per cent of the width, downwards in pixels. Text is then never stretched, however wide the page is.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from markupsafe import Markup, escape


def element(name: str, *inside: str, **attributes: str | float | None) -> Markup:
    """Return an element. `class_` becomes `class`, `aria_label` `aria-label`; an attribute of `None` is left out."""
    given = "".join(
        f' {_named(key)}="{escape(value) if isinstance(value, str) else written(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{given}>{''.join(map(escape, inside))}</{name}>")


@cache
def _named(key: str) -> str:
    return key.removesuffix("_").replace("_", "-")


def stretched(paths: Iterable[Markup], width: float, height: float) -> Markup:
    """Return paths in a picture that is pulled to the width of the one around it."""
    return element(
        "svg",
        *paths,
        width="100%",
        height=height,
        viewBox=f"0 0 {written(width)} {written(height)}",
        preserveAspectRatio="none",
    )


def path(points: Iterable[tuple[float, float]], *, closed: bool = False) -> str:
    """Return the line through points as the attribute `d`."""
    return "M" + "L".join(f"{written(x)} {written(y)}" for x, y in points) + ("Z" if closed else "")


def written(value: float) -> str:
    """Return a number with at most two decimals, which is a twentieth of a pixel in all charts."""
    return str(value) if isinstance(value, int) else f"{value:.2f}".rstrip("0").rstrip(".")


def per_cent(part: float) -> str:
    """Return a part of the width, 0 to 1."""
    return f"{written(100.0 * part)}%"
