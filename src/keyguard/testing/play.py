"""One request through a guard, as a server would send it, and the response that comes back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Unpack

from keyguard.guard import AnyGuard
from keyguard.stack.keyguard import Keyguard

if TYPE_CHECKING:
    from keyguard.stack.options import StackOptions


@dataclass(frozen=True)
class Played:
    """The response that came back from `play`."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def header(self, name: str) -> str | None:
        """Return the first line of a header field, or `None`."""
        return next((value for key, value in self.headers if key.lower() == name.lower()), None)


def play(
    guard: AnyGuard | Keyguard,
    path: str = "/",
    *,
    method: str = "GET",
    headers: Mapping[str, str] | Iterable[tuple[str, str]] = (),
    client: str | None = "198.51.100.1",
    **options: Unpack[StackOptions],
) -> Played:
    """Send one request through a guard, or a whole stack, around an app that answers 200 with `ok`.

    `options` are those of `Keyguard`; the store is one in memory, if none is given. To send several requests to one
    stack, build it once and pass it.
    """
    stack = guard if isinstance(guard, Keyguard) else Keyguard(guard, **({"store": "memory://"} | options))
    heads: list[tuple[int, list[tuple[str, str]]]] = []

    def app(environ: Any, start_response: Any) -> Iterable[bytes]:
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2")])
        return [b"ok"]

    def start_response(status: str, fields: list[tuple[str, str]], exc_info: Any = None) -> Any:
        heads.append((int(status[:3]), fields))

    path, _, query = path.partition("?")
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path.encode().decode("latin-1"),  # PEP 3333, "Unicode Issues"
        "QUERY_STRING": query.encode().decode("latin-1"),
        "REMOTE_ADDR": client or "",
        "wsgi.url_scheme": "http",
    }
    for name, value in headers.items() if isinstance(headers, Mapping) else headers:
        if "_" in name and name.lower().encode("latin-1") not in stack.underscores:
            continue  # as most servers do
        variable = name.upper().replace("-", "_")
        if variable not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            variable = "HTTP_" + variable
        environ[variable] = f"{environ[variable]},{value}" if variable in environ else value  # as servers do
    body = b"".join(stack.wsgi(app)(environ, start_response))
    return Played(*heads[-1], body)
