"""The private parts of redis-py that are used, all of them: a version that lacks one must not be installed.

redis-py opens connections and introduces itself; then its sockets and transports are used directly, since its own
reading and writing cost more than a decision does.
"""

from __future__ import annotations

import ast
import asyncio
import re
from pathlib import Path

import redis
from redis.asyncio.connection import Connection as AsyncConnection
from redis.connection import Connection

from keyguard.stores.redis import url
from tests.support.servers import RedisServer

FOLDER = Path(url.__file__).parent

USED = {
    "opening.py": {
        "connection._sock",  # to set how long reading from it may take, without opening another
        "connection._parser",
        "connection._parser._socket_timeout",  # which its parser remembers for itself
    },
    "pipe.py": {
        "connection._writer",  # to take over its transport
        "connection._parser",  # to read error replies as the exceptions that redis-py makes of them
        "connection._close",  # to close it without waiting for the other side
    },
}


def private_parts(text: str) -> set[str]:
    """Return what is read of connections and clients of redis-py that begins with an underscore."""
    found = {ast.unparse(node) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Attribute)}
    return {name for name in found if re.fullmatch(r"(connection|client|pool|sentinel)(\.\w+)*\._\w+", name)}


def test_these_are_used_and_no_others() -> None:
    found = {path.name: parts for path in FOLDER.glob("*.py") if (parts := private_parts(path.read_text()))}
    assert found == USED


def test_redis_py_has_them(valkey: RedisServer) -> None:
    connection = Connection(port=valkey.port)
    connection.connect()
    try:
        assert connection._sock is not None
        assert hasattr(connection._parser, "_socket_timeout")
    finally:
        connection.disconnect()

    async def story() -> None:
        connection = AsyncConnection(port=valkey.port)
        await connection.connect()
        assert isinstance(connection._writer, asyncio.StreamWriter)
        assert isinstance(connection._parser.parse_error("ERR wrong"), redis.ResponseError)
        writer = connection._writer
        connection._close()
        writer.transport.abort()
        await asyncio.sleep(0)

    asyncio.run(story())


def test_no_other_version_is_installed() -> None:
    project = (Path(__file__).parents[3] / "pyproject.toml").read_text()
    assert 'redis = ["redis[hiredis]>=8.0,<9"]' in project
    assert redis.__version__.startswith("8.")
