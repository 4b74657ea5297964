"""One request through a guard, as a server would send it, and the response that comes back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, Unpack

from keyguard.guard import AnyGuard
from keyguard.process.event_loops import in_loop
from keyguard.stack.keyguard import Keyguard

if TYPE_CHECKING:
    from keyguard.stack.options import StackOptions

Fields: TypeAlias = "Mapping[str, str] | Iterable[tuple[str, str]]"
Interface: TypeAlias = Literal["wsgi", "asgi"]


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
    headers: Fields = (),
    client: str | None = "198.51.100.1",
    interface: Interface = "wsgi",
    **options: Unpack[StackOptions],
) -> Played:
    """Send one request through a guard, or a whole stack, around an app that answers 200 with `ok`.

    `interface` is that of the server: `"wsgi"`, or `"asgi"`, on an event loop of its own. `options` are those of
    `Keyguard`; the store is one in memory, if none is given. To send several requests to one stack, build it once and
    pass it.

    Raises `RuntimeError` for `"asgi"` if an event loop runs here already: there `await aplay(...)`.
    """
    stack = _stack(guard, options)
    if _checked(interface) == "wsgi":
        return _over_wsgi(stack, path, method, headers, client)
    if in_loop():
        raise RuntimeError("play(interface='asgi') runs an event loop of its own, and one runs here: await aplay(...)")
    import asyncio  # which tests of WSGI apps may do without

    return asyncio.run(_over_asgi(stack, path, method, headers, client))


async def aplay(
    guard: AnyGuard | Keyguard,
    path: str = "/",
    *,
    method: str = "GET",
    headers: Fields = (),
    client: str | None = "198.51.100.1",
    **options: Unpack[StackOptions],
) -> Played:
    """Do as `play(interface="asgi")` does, in the event loop that runs here."""
    return await _over_asgi(_stack(guard, options), path, method, headers, client)


def _stack(guard: AnyGuard | Keyguard, options: StackOptions) -> Keyguard:
    if not isinstance(guard, Keyguard):
        return Keyguard(guard, **({"store": "memory://"} | options))
    if options:
        raise TypeError(f"a Keyguard has its settings already, and cannot be given {', '.join(options)}")
    return guard


def _checked(interface: Interface) -> Interface:
    if interface in ("wsgi", "asgi"):
        return interface
    raise ValueError(f"interface is 'wsgi' or 'asgi', not {interface!r:.80}")


def _sent(stack: Keyguard, headers: Fields) -> Iterator[tuple[str, str]]:
    """Yield the fields that a server would hand on."""
    for name, value in headers.items() if isinstance(headers, Mapping) else headers:
        if "_" not in name or name.lower().encode("latin-1") in stack.underscores:  # as most servers do
            yield name, value


def _over_wsgi(stack: Keyguard, path: str, method: str, headers: Fields, client: str | None) -> Played:
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
    for name, value in _sent(stack, headers):
        variable = name.upper().replace("-", "_")
        if variable not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            variable = "HTTP_" + variable
        environ[variable] = f"{environ[variable]},{value}" if variable in environ else value  # as servers do
    body = b"".join(stack.wsgi(app)(environ, start_response))
    return Played(*heads[-1], body)


async def _over_asgi(stack: Keyguard, path: str, method: str, headers: Fields, client: str | None) -> Played:
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        fields = [(b"content-type", b"text/plain"), (b"content-length", b"2")]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": b"ok"})

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(dict(message))

    path, _, query = path.partition("?")
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "root_path": "",
        "query_string": query.encode(),
        "headers": [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in _sent(stack, headers)],
        "client": None if client is None else (client, 50_000),
        "server": None,
    }
    await stack.asgi(app)(scope, receive, send)
    head, *bodies = sent
    fields = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in head["headers"]]
    return Played(head["status"], fields, b"".join([part.get("body", b"") for part in bodies]))
