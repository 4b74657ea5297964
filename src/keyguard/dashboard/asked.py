"""A request to the dashboard: which page it means, and the way back to the overview."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl

from keyguard.http.values import Values
from keyguard.request import CarriedRequest

MOST_BYTES = 32 * 1024
"""Of a form."""
_MOST_FIELDS = 32
_NOWHERE = "/-"
"""Stands for a path that could be read in several ways: there is no such page."""
_PLACE = re.compile(r"(?:[a-z-]+(?:/[0-9A-Za-z]+)?)?(?:\?[0-9A-Za-z_.~%&=+:-]*)?")
_LONGEST = 500
_DIGITS = 9
_LOCAL = re.compile(r"(?:localhost|(?:[a-z0-9-]+\.)?localhost|127\.\d+\.\d+\.\d+|\[::1\])(?::\d+)?", re.IGNORECASE)
_FORWARDED = ("x-forwarded-proto", "x-forwarded-for", "x-forwarded-host", "forwarded", "via")


class BadForm(ValueError):
    """A form that cannot be read in one way only."""


class Asked:
    """One request to the dashboard."""

    def __init__(self, request: CarriedRequest) -> None:
        self.request = request
        self.method = request.method
        self.path = _NOWHERE if request.ambiguous else request.path
        self.parts = tuple(self.path.split("/")[1:])
        """The segments of the path: `("keys", "4fK2mQ9xTzLb")`; `("",)` for the overview."""
        self.root = "../" * (len(self.parts) - 1) or "./"
        self.query: Values = request.query
        self.form: Mapping[str, str] = {}

    def header(self, name: str) -> str:
        """Return a field of the head; empty if it is not there."""
        return self.request.header(name) or ""

    @property
    def skipped(self) -> int:
        """How many rows of a list stand on the pages before."""
        text = self.query.get("skip", "")
        return int(text) if text.isdecimal() and len(text) <= _DIGITS else 0

    @property
    def reads(self) -> bool:
        """Whether it only wants to see something."""
        return self.method in ("GET", "HEAD")

    @property
    def by_script(self) -> bool:
        """Whether the page fetches itself, and no person waits for it."""
        return self.header("sec-fetch-dest") == "empty" or bool(self.header("if-none-match"))

    @property
    def local(self) -> bool:
        """Whether it came without TLS from a browser on this machine, as in development.

        A request that a proxy has forwarded is not, whatever `Host` it sends: its browser may well have come by TLS.
        """
        request = self.request
        return (
            request.scheme == "http"
            and _LOCAL.fullmatch(self.header("host")) is not None
            and not any(request.header(name) for name in _FORWARDED)
            and not self.header("origin").startswith("https:")
        )

    @property
    def place(self) -> str:
        """The way from the overview to this page, with its query; empty for what is no page of its own."""
        query = self.request.raw_query.decode("latin-1")
        place = "/".join(self.parts) + (f"?{query}" if query else "")
        return checked_place(place) if self.method == "GET" else ""


def checked_place(place: str) -> str:
    """Return the way from the overview to a page, if it is one; else that to the overview itself."""
    return place if len(place) <= _LONGEST and _PLACE.fullmatch(place) else ""


def read_form(media: str, body: bytes) -> dict[str, str]:
    """Return the fields of a form, each once. Raises `BadForm` for anything else."""
    kind, _, parameters = media.partition(";")
    charset = parameters.lower().replace('"', "").replace(" ", "")
    if kind.strip().lower() != "application/x-www-form-urlencoded" or charset not in ("", "charset=utf-8"):
        raise BadForm("it is of another type")
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, strict_parsing=bool(body), errors="strict",
            max_num_fields=_MOST_FIELDS,
        )  # fmt: skip
    except ValueError:
        raise BadForm("it cannot be read") from None
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadForm("it has a field twice")
    return {name: value.replace("\r\n", "\n").strip() for name, value in found.items()}
