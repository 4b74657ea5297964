"""A gateway to a model with Flask, for real servers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from flask import Flask, Response, request, stream_with_context

from tests.support.served_budget import PAUSE, PIECE, PIECES, USAGE, guard, use

flask = Flask("gateway")


@flask.get("/use")
def flask_use() -> dict[str, int]:
    return use()


@flask.post("/v1/chat/completions")
def flask_chat() -> Response:
    def made() -> Iterator[bytes]:
        for _ in range(PIECES):
            time.sleep(PAUSE)
            assert request.json["stream_options"] == {"include_usage": True}  # type: ignore[index]
            yield PIECE
        yield USAGE

    return Response(stream_with_context(made()), mimetype="text/event-stream")


app: Any = guard.wsgi(flask.wsgi_app)
