"""A small server that shows views, with the policy that real pages have, and counts what it is asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

from keyguard.dashboard import looks, views
from tests.dashboard.other_pages import log_in


class Site:
    """Pages by name, under `/mounted/`."""

    def __init__(self) -> None:
        self.pages: dict[str, Callable[[], views.Page]] = {}
        self.asked: list[tuple[str, int]] = []
        self.status = 200
        """What pages are answered with, if it is not 200. With 401, whoever opens one anew is shown the log-in."""
        self.url = ""

    def answer(self, path: str, known: str) -> tuple[int, str, str, bytes]:
        """Return status, media type, tag and body."""
        folder, name = path.split("?")[0].rsplit("/", 1)
        if folder.endswith("/static"):
            file = looks.file(name)
            return (404, "text/plain", "", b"") if file is None else (200, file.media_type, file.tag, file.body)
        if name not in self.pages:
            return 404, "text/plain", "", b""
        if self.status == 401 and not known:
            return 200, "text/html; charset=utf-8", "", looks.page(log_in()).body
        drawn = looks.page(self.pages[name]())
        status = 304 if self.status == 200 and known == f'"{drawn.tag}"' else self.status
        self.asked.append((name, status))
        return status, "text/html; charset=utf-8", drawn.tag, drawn.body if status == 200 else b""


@contextmanager
def site() -> Iterator[Site]:
    shown = Site()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, media_type, tag, body = shown.answer(self.path, self.headers.get("If-None-Match", ""))
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{tag}"')
            self.send_header("Content-Security-Policy", looks.CONTENT_SECURITY_POLICY)
            self.send_header("X-Content-Type-Options", "nosniff")
            if media_type.startswith("text/html"):
                self.send_header("Cache-Control", "no-store")
            else:
                self.send_header("Cache-Control", "max-age=3600")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    shown.url = f"http://127.0.0.1:{server.server_port}/mounted/"
    try:
        yield shown
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
