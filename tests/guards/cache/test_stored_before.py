"""Entries that a version of before the rooms were built has stored are served: keys and values are what they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from keyguard import Keyguard, ResponseCache
from keyguard.ops import Put
from keyguard.stores.sqlite import SQLiteStore
from keyguard.testing import ManualClock
from tests.support.harness import Ask, asgi_app, ask_asgi

STORED = {
    "rc:purges|log": b"[1,{}]",
    "rc:purges|v": b"\1" + bytes(7),
    "rc:4e6b742a19cb5ec6ee03f553f15072ef|!": b"\xff\x7f\x98(\x17e\x06\x00",
    "rc:4e6b742a19cb5ec6ee03f553f15072ef|ic6884aad8b630c78de9b584b48bc0d2b": (
        b'[["w8dd7b5072897086fe2a7b2c4f3ec4400",["accept-language","x-a"],1800003660000000]]'
    ),
    "rc:4e6b742a19cb5ec6ee03f553f15072ef|vc6884aad8b630c78de9b584b48bc0d2bw8dd7b5072897086fe2a7b2c4f3ec4400": (
        b'\x028\x01\x00\x00\x08\x00\x00\x00[200,[["cache-control","public, max-age=60"],'
        b'["vary","Accept-Language, X-A"],["etag","\\"1\\""],["Date","Fri, 15 Jan 2027 08:00:00 GMT"]],'
        b"1800000000000000,0,60,false,false,0,0,true,"
        b'[["accept-language","de;1,en;0.5"],["x-a","3f760e4a288332a345f741fd3bd05ee2"]],'
        b'["a","b"],null,null,1800000000000000,1800000000000000]hello /v'
    ),
    "rc:ecf9597a42d65c503e5fa8a50655b4d0|!": b"\xff\x7f\x98(\x17e\x06\x00",
    "rc:ecf9597a42d65c503e5fa8a50655b4d0|ia5b594826551dcf1b20fa46eb1bbcd12": (
        b'[["w9a44bec1d23ba56d28b0eaeea59a8d58",["accept-language","x-a","x-b"],1800003660000000]]'
    ),
    "rc:ecf9597a42d65c503e5fa8a50655b4d0|va5b594826551dcf1b20fa46eb1bbcd12w9a44bec1d23ba56d28b0eaeea59a8d58": (
        b'\x02J\x01\x00\x00\x08\x00\x00\x00[200,[["cache-control","public, max-age=60"],["etag","\\"1\\""],'
        b'["Date","Fri, 15 Jan 2027 08:00:00 GMT"],["Vary","accept-language, x-a, x-b"]],'
        b"1800000000000000,0,60,false,false,0,0,true,"
        b'[["accept-language","de;1,en;0.5"],["x-a","3f760e4a288332a345f741fd3bd05ee2"],["x-b",null]],'
        b'["a","b"],null,null,1800000000000000,1800000000000000]hello /v'
    ),
}
"""What `GET http://h.test/v?x=1&utm_a=2` has left in a store under two caches."""

CACHES: dict[str, dict[str, Any]] = {
    "plain": {},
    "ruled": {"ttl": 30, "ignore_query": ["utm_*"], "vary": ["X-B"], "credentials": ["X-C"]},
}


@pytest.mark.parametrize("name", CACHES)
def test_what_was_stored_before_is_served(name: str, tmp_path: Path) -> None:
    clock = ManualClock()
    store = SQLiteStore(tmp_path / "before.db", clock=clock)
    store.execute([Put(key, value) for key, value in STORED.items()])
    clock.advance(1)
    app = Keyguard(ResponseCache(name=name, **CACHES[name]), store=store, clock=clock).asgi(asgi_app)
    fields = (("Host", "h.test"), ("Accept-Language", "de, en;q=0.5"), ("X-A", "q"))
    answer = ask_asgi(app, Ask("/v?x=1&utm_a=2", fields, host=False))
    assert (answer.get("cache-status"), answer.body) == (f"{name}; hit; ttl=59", b"hello /v")
    store.close()
