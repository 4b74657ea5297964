"""Bodies of refusals that the app's own function writes: everything else of a refusal stays as it is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from inspect import iscoroutine
from typing import Any, TypeAlias

from keyguard.http.fields import LIMIT_FIELDS
from keyguard.logs import logger
from keyguard.refusal import Refusal
from keyguard.response import Response

log = logger("keyguard")

Rendered: TypeAlias = "Mapping[str, Any] | list[Any] | str | bytes | Response | None"
"""The body of a refusal, as a function may return it."""

_OURS = LIMIT_FIELDS | {
    *("cache-control", "retry-after", "www-authenticate", "content-length", "transfer-encoding", "connection"),
}
"""Fields of a refusal that a function has no say in."""
_MOST = 20  # kinds of errors that are told


class Rendering:
    """Writes the bodies of refusals by a function. If that fails, they stay the problem details that they were."""

    def __init__(self, function: Callable[[Refusal], Rendered]) -> None:
        self._function = function
        self._told: set[type[BaseException]] = set()

    def apply(self, response: Response) -> None:
        """Give a refusal its body. Anything else is left as it is."""
        if response.refusal is None or not isinstance(response.body, bytes):
            return
        try:
            made = self._function(response.refusal)
            if made is None:
                return
            fields, body = _written(made)
        except Exception as error:
            if type(error) not in self._told and len(self._told) < _MOST:
                self._told.add(type(error))
                log.exception("render_refusal failed, and refusals are the problem details")
            return
        for name, value in fields:
            if name.lower() == "content-type":
                response.headers.set(name, value)
            elif name.lower() not in _OURS:
                response.headers.add(name, value)
        response.body, response.sized = body, False


def _written(made: Any) -> tuple[list[tuple[str, str]], bytes]:
    """Return header fields and a body. Raises `TypeError` or `ValueError` for what cannot be one."""
    if isinstance(made, (Mapping, list)):
        text = json.dumps(made if isinstance(made, list) else dict(made), ensure_ascii=False, allow_nan=False)
        return [("Content-Type", "application/json")], text.encode()
    if isinstance(made, str):
        return [("Content-Type", "text/plain; charset=utf-8")], made.encode()
    if isinstance(made, bytes):
        return [("Content-Type", "application/octet-stream")], made
    if isinstance(made, Response) and isinstance(made.body, bytes):
        fields = list(made.headers)
        if not any(name.lower() == "content-type" for name, _ in fields):
            raise ValueError("the Response that render_refusal returned has no Content-Type")
        return fields, made.body
    if iscoroutine(made):
        made.close()
    raise TypeError(
        f"render_refusal returns a dict, a list, text, bytes, a Response or None, not {type(made).__name__}"
    )
