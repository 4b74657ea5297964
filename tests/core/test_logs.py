"""What is told of a request, a store or a command line: one line each, and no secret."""

from __future__ import annotations

import io
import json
import logging
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from keyguard import APIKeys, Cause, ConfigurationError, Identity, Keyguard, Request, StoreError, open_store, refuse
from keyguard.cli import main
from keyguard.keys import KeyRegistry, new_key, record_key
from keyguard.keys.record import encode, read_head
from keyguard.logs import plain, story, word
from keyguard.ops import Put, Read
from keyguard.stores.memory import MemoryStore
from keyguard.testing import play
from tests.support.harness import Ask, ask_wsgi, wsgi_app
from tests.support.warm import run as begin

FORGED = "ada\n2027-01-15 refused: reason=none key=admin \x1b[2J\u202e\u2028end\x85"


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """What a handler writes, as a file would have it."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.DEBUG)
    yield stream
    root.removeHandler(handler)
    root.setLevel(level)


def lines(stream: io.StringIO) -> list[str]:
    """What begins a line of the log; every kind of line break counts."""
    text = stream.getvalue()
    assert "\x1b" not in text
    assert "\u202e" not in text
    return [line for line in text.splitlines() if line and not line.startswith("  ")]


# -- the log ------------------------------------------------------------------------------------------------------


def test_a_subject_that_a_look_up_returned_writes_no_line_of_its_own(logged: io.StringIO) -> None:
    def lookup(key: str) -> Identity:
        return Identity(FORGED, scopes=frozenset())

    play(APIKeys(lookup=lookup, scopes=["read"]), headers={"X-API-Key": "k"})
    (line,) = lines(logged)
    assert line.startswith("INFO refused: cause=permission reason=scope status=403 ")
    assert f"key={FORGED!r}" in line
    assert f"subject={FORGED!r}" in line


@pytest.mark.parametrize("field", ["reason", "key_id", "policies"])
def test_nor_does_what_a_guard_of_somebody_s_own_says(field: str, logged: io.StringIO) -> None:
    def guard(request: Request) -> Any:
        told: dict[str, Any] = {"reason": "mine", field: [FORGED] if field == "policies" else FORGED}
        return refuse(request, Cause.FAULT, "no", **told)

    play(guard)
    assert len(lines(logged)) == 1
    assert repr(FORGED) in logged.getvalue()


@pytest.mark.parametrize(
    "header",
    [
        ("X-Request-ID", FORGED),
        ("X-API-Key", FORGED),
        ("Authorization", f"Bearer {FORGED}"),
        ("X-Forwarded-For", FORGED),
    ],
)
def test_nor_does_what_a_caller_sends(header: tuple[str, str], logged: io.StringIO) -> None:
    guard = Keyguard(APIKeys(), trusted_proxies=["198.51.100.1"])
    latin = (header[0], header[1].encode("latin-1", "replace"))
    assert ask_wsgi(guard.wsgi(wsgi_app), Ask(headers=(latin,)), lint=False).status == 401
    assert len(lines(logged)) == 1


def test_a_word_that_needs_no_quotes_has_none(logged: io.StringIO) -> None:
    store = MemoryStore()
    issued = KeyRegistry(store).issue("acme")
    KeyRegistry(store).revoke(issued.record.id)
    play(APIKeys(), headers={"X-API-Key": issued.key.reveal()}, store=store)
    assert " reason=revoked status=401 request=" in lines(logged)[0]
    assert f" key={issued.record.id} " in lines(logged)[0]


@pytest.mark.parametrize("place", ["guard", "deferred", "on_refusal", "on_health", "look-up"])
def test_the_text_of_an_exception_writes_no_line_of_its_own(place: str, logged: io.StringIO) -> None:
    """Such as `ValueError: no tenant ...`, with what stood in the query."""

    def fail(*args: object) -> Any:
        try:
            raise KeyError("inner")
        except KeyError:
            raise ValueError(f"no tenant {FORGED}") from None

    def defer(request: Request) -> None:
        request.at_end(fail)

    def refused(request: Request) -> Any:
        return refuse(request, Cause.ADDRESS, "no", reason="mine")

    class Failing(MemoryStore):
        def execute(self, ops: Any) -> list[Any]:
            raise StoreError(f"server said {FORGED}")

    class Store:
        execute = staticmethod(Failing().execute)
        scan = staticmethod(Failing().scan)

    stacks: dict[str, Any] = {
        "guard": lambda: Keyguard(fail),
        "deferred": lambda: Keyguard(defer),
        "on_refusal": lambda: Keyguard(refused, on_refusal=fail),
        "on_health": lambda: Keyguard(APIKeys(), store=Store(), on_health=fail),
        "look-up": lambda: Keyguard(APIKeys(lookup=fail)),
    }
    guard = stacks[place]()
    ask_wsgi(guard.wsgi(wsgi_app), Ask(headers=(("X-API-Key", new_key().reveal()),)))
    begun = lines(logged)
    assert not [line for line in begun if line.startswith("2027")]
    assert "tenant ada" in logged.getvalue()
    assert all(line.startswith(("INFO ", "ERROR ", "WARNING ", "Traceback ")) for line in begun), begun
    if place == "on_health":
        assert "\n" not in guard.health.failure
        assert "server said ada\\n" in guard.health.failure


def test_the_story_of_an_exception_is_still_told_to_who_wants_it_whole(caplog: pytest.LogCaptureFixture) -> None:
    def fail(request: Request) -> Any:
        raise ValueError("as it is")

    play(fail)
    (record,) = [record for record in caplog.records if record.exc_info]
    assert isinstance(record.exc_info, tuple)
    assert isinstance(record.exc_info[1], ValueError)
    assert "test_logs.py" in caplog.text


@pytest.mark.parametrize(
    ("text", "as_word"),
    [
        ("4fK2mQ9xTzLb", "4fK2mQ9xTzLb"), ("a-b.c_d:e/f@g", "a-b.c_d:e/f@g"), ("", "''"), ("a b", "'a b'"),
        ("a=b", "'a=b'"), ("a'b", '"a\'b"'), ('a"b', "'a\"b'"), ("a\\b", "'a\\\\b'"), ("é", "'é'"), ("a\nb", "'a\\nb'"),
    ],
)  # fmt: skip
def test_words(text: str, as_word: str) -> None:
    assert word(text) == as_word


def test_a_key_that_a_look_up_names_by_a_number_is_told_too(logged: io.StringIO) -> None:
    guard = APIKeys(lookup=lambda key: Identity(7), scopes=["x"])  # type: ignore[arg-type]
    assert play(guard, headers={"X-API-Key": "k"}).status == 403
    assert " key=7 " in lines(logged)[0]


def test_an_exception_that_was_never_raised_is_one_line_too() -> None:
    assert all(line.startswith("  ") for line in story(ValueError(FORGED)).split("\n")[1:])
    assert story(ValueError(FORGED)).replace("\n", "").isprintable()


def test_plain_text_is_printable_and_itself_where_it_was() -> None:
    assert plain("ä €, 😀 'quoted' \\") == "ä €, 😀 'quoted' \\"
    assert plain(FORGED).isprintable()
    assert plain("\ud800\x00\x7f\x9b") == "\\ud800\\x00\\x7f\\x9b"


# -- a store's URL ------------------------------------------------------------------------------------------------

SECRET = "s3cr3t-w0rd"
URLS = [
    "redis://user:{}：x@h:6379/0",
    "redis://user:x：{}@h",
    "redis://user：{}@h/0",
    "redis://user:{}＃@h",
    "redis://user:{}／x@h",
    "redis://u:{}＠x@h：1",
    "redis://u:[{}]@h",
    "redis://u:[{}@h",
    "redis://u:{}]@h",
    "redis://u:a[{}@h",
    "redis://u:{}@[::1/0",
    "redis://u:{}@[not-an-address]/0",
    "redis://u:{}@h:port",
    "redis://u:{}@h:99999999",
    "redis://u:{}@h:-1",
    "redis://:{}",
    "redis://:{}/x@h",
    "redis://:{}:@h:x:y",
    "redis://:x?{}@h/0",
    "redis://:x?{}=1@h/0",
    "redis://:x?timeout={}@h/0",
    "redis://:x#{}@h",
    "redis://:{}\n@h",
    "redis://:{}\t@h",
    "redis://:{}\x00@h",
    "redis://:{}\x9b@h",
    "redis://:{}\ud800@h",
    "redis://:{}@h\x00",
    "redis://:{}@h%00/0",
    "redis://:{}@" + "a" * 70 + ".com",
    "redis://:{}@h..com",
    "redis://:{}@\u2100",
    "redis://u:{}%zz@h/ab",
    "redis://u:{}%@h:%",
    "redis://u:{}@h/0?timeout={}",
    "redis://u:{}@h/0?max_connections=0",
    "redis://u:{}@h/0?no_such_option=1",
    "rediss://u:{}@h/0?ssl_ca_certs=/no/such/file",
    "unix://u:{}@",
    "unix://u:x/{}@/run/x.sock",
    "unix://:x/{}@",
    "unix://u:{}@h/run/x.sock",
    "redis+sentinel://u:{}@h:x/service",
    "redis+sentinel://u:{}@h/service/x",
    "redis+cluster://u:{}@h:x",
    "redis+cluster://u:{}/x@h",
    "redis+cluster://u:[{}]@h/0",
    "postgresql://u:{}@h:port/db",
    "postgresql://u:x/{}@h/db",
    "postgresql://u:{}%zz@h/db",
    "postgresql://u:{}%00@h/db",
    "postgresql://u:{}\n@h/db",
    "postgresql://u:{}@h..com/db",
    "postgresql://u:x#{}@h..com/db",
    "postgresql://u:{}@h/db?no_such_option=1",
    "postgresql://u:{}@h/db?timeout=x",
    "postgresql://u:{}@h/db?schema=no schema",
    "sqlite:u:{}@h/x.db",
    "redis://u:%00{}@h/0?timeout=%00{}",
    "{}",
    "user:{}@host",
    "://u:{}@h",
    "rediss//:{}@h",
    "redis:/u:{}@h",
    "redis:u:{}@h",
    "http://u:{}@h",
    "sqlite://u:{}@h/x.db",
    "memory://u:{}@",
]


@pytest.mark.parametrize("url", URLS, ids=ascii)
def test_no_error_of_a_url_shows_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        open_store(url.replace("{}", SECRET))
    shown = "".join(traceback.format_exception(caught.value))
    links: list[BaseException | None] = [caught.value]
    while links[-1] is not None:
        shown += repr(links[-1])
        links.append(links[-1].__cause__ or links[-1].__context__)
    source = "".join(traceback.format_tb(caught.value.__traceback__))
    for part in (SECRET, SECRET[:6], SECRET[-6:]):
        assert part not in shown.replace(source, "")
    assert len(str(caught.value)) > 20, "it says what would be right"


def test_the_path_of_a_file_is_told_though_an_at_sign_stands_in_it(tmp_path: Path) -> None:
    place = tmp_path / "app@1" / "missing" / "keys.db"
    with pytest.raises(ConfigurationError, match="app@1"):
        open_store(f"sqlite:///{place}")


@pytest.mark.parametrize("url", ["redis://u:{}：@h", "redis://u:[{}]@h", "user:{}@host", "postgresql://u:{}@h:port/db"])
def test_nor_does_the_command(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["keys", "list", "--store"], ["cache", "stats", "--store"], ["store", "check"], ["store", "migrate"]):
        assert main([*words, url.replace("{}", SECRET)]) == 1
        said = capsys.readouterr()
        assert (said.out, said.err.count("\n"), SECRET in said.err) == ("", 1, False)
        assert said.err.startswith("keyguard: error: ")


# -- the command line ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["cache", "explain", "http://h/", "--header", "X-API-Key:", SECRET],
        ["cache", "explain", "http://h/", "--header", "X-API-Key:", SECRET, "more"],
        ["cache", "explain", "--header", f"X-API-Key: {SECRET}"],
        ["cache", "explain", "http://h/", f"--headr=X-API-Key: {SECRET}"],
        ["cache", "explain", "http://h/", f"--he=X-API-Key: {SECRET}", "--ttl", "x"],
        ["cache", "explain", "http://h/", "--header", f"X-API-Key: {SECRET}", "--ttl", SECRET],
        ["keys", SECRET],
        ["keys", "revoke", "x", SECRET],
        ["keys", "rotate", "x", "--overlap", SECRET],
        ["keys", "list", f"--st=redis://:{SECRET}@h"],
        ["keys", "list", "--status", SECRET],
        ["store", "check", "redis://h", f"redis://:{SECRET}@h"],
        ["store", "check", "redis://h", "--steps", SECRET],
        ["store", "copy", f"redis://:{SECRET}@h"],
        [SECRET],
    ],
    ids=lambda words: " ".join(words).replace(SECRET, "..."),
)
def test_a_command_line_that_is_wrong_is_told_without_its_words(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(words)
    assert caught.value.code == 2
    said = capsys.readouterr()
    assert "usage: keyguard" in said.err
    assert SECRET not in said.err + said.out


@pytest.mark.parametrize(
    "header", [SECRET, f"X-API-Key {SECRET}", f": {SECRET}", f"X-API-Key: {SECRET}\nX: y", f"X-API-Key: {SECRET}\u20ac"]
)
def test_an_error_echoes_no_header(header: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "explain", "http://127.0.0.1:1/", "--header", header]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("keyguard: error: ")
    assert SECRET not in said.err + said.out


@pytest.mark.parametrize(
    "url", ["http://u:{}@h:port/", "http://u:[{}]@h/", "ftp://u:{}@h/", "http://h/?key={} x", "{}"]
)
def test_nor_the_url_that_is_asked_for(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cache", "explain", url.replace("{}", SECRET).replace("//h/", "//127.0.0.1:1/")]) == 1
    said = capsys.readouterr()
    assert SECRET not in said.err + said.out


def test_nothing_secret_has_to_stand_in_the_list_of_processes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/k.db?timeout=5"
    keys = KeyRegistry(open_store(url))
    (tmp_path / "url").write_text(f"\n{url}\n")
    monkeypatch.setenv("MY_STORE", url)
    monkeypatch.delenv("KEYGUARD_STORE", raising=False)
    key = keys.issue("acme").key.reveal()
    (tmp_path / "key").write_text(f"{key}\n")
    monkeypatch.setenv("MY_KEY", key)

    def run(*words: str, said: str = "") -> str:
        monkeypatch.setattr("sys.stdin", io.StringIO(said))
        assert main(words) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    for store in (["--store", f"@{tmp_path}/url"], ["--store-file", f"{tmp_path}/url"], ["--store", "env:MY_STORE"]):
        assert "acme" in run("keys", "list", *store)
        assert "acme" in run("keys", "show", f"@{tmp_path}/key", *store)
        assert "acme" in run("keys", "show", "env:MY_KEY", *store)
        assert "acme" in run("keys", "show", "-", *store, said=f"{key}\n")
    assert "acme" in run("keys", "show", "-", "--store", "-", said=f"{url}\n{key}\n")
    run("store", "migrate", f"@{tmp_path}/url")
    run("store", "copy", "-", "-", said=f"{url}\nsqlite:///{tmp_path}/other.db\n")
    monkeypatch.setenv("KEYGUARD_STORE", f"sqlite:///{tmp_path}/other.db?timeout=5")
    run("store", "check", "--steps", "1")
    assert "acme" in run("keys", "list")
    monkeypatch.setenv("KEYGUARD_STORE", f"@{tmp_path}/url")
    run("keys", "revoke", "-", said=key)
    assert keys.get(key).revoked is not None


def test_a_place_that_holds_nothing_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "two").write_text(f"{SECRET}\n{SECRET}\n")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    for place, words in (
        ("-", "expected on standard input"), ("env:NOT_SET", "NOT_SET, which is not set"),
        (f"@{tmp_path}/none", "cannot be read: No such file"), (f"@{tmp_path}/empty", "holds 0 lines"),
        (f"@{tmp_path}/two", "holds 2 lines"), (f"@{tmp_path}/bytes", "is not UTF-8"),
    ):  # fmt: skip
        assert main(["keys", "list", "--store", place]) == 1
        said = capsys.readouterr().err
        assert words in said
        assert SECRET not in said
        assert said.count("\n") == 1


def test_header_fields_come_from_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import http.server
    import threading

    seen: list[dict[str, str]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(dict(self.headers))
            self.send_response(200)
            self.send_header("Cache-Control", "max-age=60, x=\x1b[2J")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    (tmp_path / "fields").write_text(f"X-API-Key: {SECRET}\nAccept: text/plain\n")
    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/"
            for more in ([], ["--json"]):
                assert main(["cache", "explain", url, "--header", f"@{tmp_path}/fields", *more]) == 0
        finally:
            server.shutdown()
            thread.join()
    said = capsys.readouterr()
    assert all((fields["X-API-Key"], fields["Accept"]) == (SECRET, "text/plain") for fields in seen)
    assert SECRET not in said.out + said.err
    assert "\x1b" not in said.out + said.err


def test_what_stands_in_a_store_sends_no_command_to_a_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from keyguard.keys import Peppers
    from keyguard.keys.record import decode

    url = f"sqlite:///{tmp_path}/k.db?timeout=5"
    monkeypatch.setenv("KEYGUARD_STORE", url)
    store: Any = open_store(url)
    issued = KeyRegistry(store).issue("acme", scopes=["read"])
    name = record_key(issued.record.id)
    ((stored,),) = store.execute([Read(name)])
    record = replace(decode(stored), owner=FORGED, plan=FORGED, scopes=frozenset({FORGED}), metadata={FORGED: FORGED})
    store.execute([Put(name, encode(record, Peppers(), read_head(stored)))])
    for words in (["list"], ["list", "--json"], ["show", issued.record.id], ["show", issued.record.id, "--json"]):
        assert main(["keys", *words]) == 0
        said = capsys.readouterr()
        assert all(one.isprintable() or one == "\n" for one in said.out + said.err)
        assert not [line for line in said.out.splitlines() if line.startswith("2027")]
        if "--json" in words:
            found = json.loads(said.out)
            assert (found[0] if isinstance(found, list) else found)["owner"] == FORGED
    store.execute([Put("key|" + FORGED, b"nonsense")])
    assert main(["keys", "list"]) == 1
    said = capsys.readouterr()
    assert (said.out, said.err.count("\n"), said.err[:-1].isprintable()) == ("", 1, True)
    store.close()


def test_a_process_that_is_listed_shows_no_key(tmp_path: Path, warm: str) -> None:
    """As a person would do it: the key through a pipe, the store from a file."""
    url = f"sqlite:///{tmp_path}/k.db?timeout=5"
    key = KeyRegistry(open_store(url)).issue("acme").key.reveal()
    (tmp_path / "url").write_text(url)
    command = ["-m", "keyguard", "keys", "revoke", "-", "--store-file", f"{tmp_path}/url"]
    done = begin(warm, command, given=key, needs=["keyguard"])
    assert (done.returncode, done.stderr) == (0, "")
    assert "revoked" in done.stdout
