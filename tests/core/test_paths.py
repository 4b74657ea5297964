"""Path patterns, and the spellings that no rule interprets: tables, a naive twin, a story for each advisory."""

from __future__ import annotations

import re
import sys
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette._utils import get_route_path

from keyguard.errors import ConfigurationError
from keyguard.http.paths import Paths, ambiguous, decode_wsgi_path, readings, strip_root, words_of

# -- patterns -------------------------------------------------------------------------------------------------

# What matches exactly, and what matches in addition where a slash at the end makes no difference.
MATCHES: list[tuple[str, list[str], list[str], list[str]]] = [
    (
        "/health",
        ["/health"],
        ["/health/"],
        ["", "/", "/Health", "/healthz", "/health/x", "/x/health", "/heal", "health", "/health//", " /health"],
    ),
    ("/health/", ["/health/"], ["/health"], ["/", "/health//", "/health/x"]),
    ("/", ["/"], [""], ["/x", "//"]),
    (
        "/docs/*",
        ["/docs", "/docs/", "/docs/x", "/docs/x/", "/docs/x/y", "/docs/*"],
        [],
        ["/docsx", "/docs.html", "/doc", "/", "/Docs/x", "/x/docs/y", ""],
    ),
    ("/*", ["", "/", "/x", "/x/y/", "/*"], [], []),
    (
        "/items/{id}",
        ["/items/7", "/items/a b", "/items/{id}", "/items/*", "/items/é", "/items/%2F"],
        # Some routers take nothing for the value of a variable.
        ["/items/7/", "/items/"],
        ["/items", "/items/7/8", "/items//", "/items/7//", "/item/7"],
    ),
    ("/items/{id}/", ["/items/7/"], ["/items/7", "/items/"], ["/items", "/items//", "/items/7/8/"]),
    (
        "/{tenant}/users/{user}/keys",
        ["/a/users/b/keys"],
        ["/a/users/b/keys/"],
        ["//users/b/keys", "/a/users//keys", "/a/users/keys", "/a/users/b/c/keys", "/a/users/b/keys/c"],
    ),
    (
        "/{tenant}/files/*",
        ["/a/files", "/a/files/", "/a/files/x/y"],
        [],
        ["//files", "/files", "/a/b/files", "/a/filesx"],
    ),
    ("/a b/ü", ["/a b/ü"], ["/a b/ü/"], ["/a%20b/ü", "/a+b/ü"]),
]
FAR = ["/one", "/two/*", "/{a}/{b}/{c}/{d}/{e}/{f}/{g}/{h}"]
ROWS = [
    pytest.param(pattern, path, exact, loose, id=f"{pattern} and {path!r}")
    for pattern, both, slash, neither in MATCHES
    for paths, exact, loose in ((both, True, True), (slash, False, True), (neither, False, False))
    for path in paths
]


@pytest.mark.parametrize(("pattern", "path", "exact", "loose"), ROWS)
def test_a_pattern_matches_a_path(pattern: str, path: str, exact: bool, loose: bool) -> None:
    assert Paths([pattern]).match(path) is exact
    assert Paths([pattern], trailing_slash=True).match(path) is loose
    # Others beside it take nothing away.
    assert Paths([pattern, *FAR]).match(path) is exact


def test_one_pattern_may_be_given_as_it_is() -> None:
    assert Paths("/docs/*").match("/docs/x")
    assert Paths("/docs/*").texts == ("/docs/*",)
    assert repr(Paths(["/a", "/b/*"])) == "<Paths: /a, /b/*>"


@pytest.mark.parametrize(
    ("path", "expected"),
    [("/a/b", True), ("/a/x", True), ("/x/b", True), ("/x/x", False), ("/a/b/c", False), ("/a/x/d", True)],
)
def test_where_a_name_leads_nowhere_the_variable_beside_it_may(path: str, expected: bool) -> None:
    assert Paths(["/a/{x}", "/{x}/b", "/a/b/{y}/e", "/{x}/x/d"]).match(path) is expected


@pytest.mark.parametrize(
    ("pattern", "says"),
    [
        ("health", "begins with '/'"),
        ("", "begins with '/'"),
        ("*", "begins with '/'"),
        (" /health", "begins with '/'"),
        ("https://example.com/health", "begins with '/'"),
        (None, "begins with '/'"),
        (7, "begins with '/'"),
        (b"/health", "begins with '/'"),
        (re.compile("/health"), "begins with '/'"),
        ("/a%20b", "decoded"),
        ("/a%2Fb", "decoded"),
        ("/100%", "decoded"),
        ("/a?b=c", "decoded"),
        ("/a#b", "decoded"),
        ("//", "without '//'"),
        ("//health", "without '//'"),
        ("/a//b", "without '//'"),
        ("/a//", "without '//'"),
        ("/a/./b", "without '//'"),
        ("/a/../b", "without '//'"),
        ("/..", "without '//'"),
        ("/.", "without '//'"),
        ("/a\\b", "without '//'"),
        ("/a;b", "without '//'"),
        ("/a\0", "without '//'"),
        ("/a\n", "without '//'"),
        ("/docs*", "'*' stands alone"),
        ("/*/docs", "'*' stands alone"),
        ("/docs/**", "'*' stands alone"),
        ("/docs/*.html", "'*' stands alone"),
        ("/docs/*/", "'*' stands alone"),
        ("/docs/*/*", "'*' stands alone"),
        ("/items/{id", "in braces"),
        ("/items/id}", "in braces"),
        ("/items/}id{", "in braces"),
        ("/items/{}", "in braces"),
        ("/items/{1}", "in braces"),
        ("/items/{a b}", "in braces"),
        ("/items/{é}", "in braces"),
        ("/items/x{id}", "in braces"),
        ("/items/{id}.json", "in braces"),
        ("/items/{a}{b}", "in braces"),
        ("/items/{{id}}", "in braces"),
        ("/items/{id:int}", "in braces"),
        ("/items/{rest:path}", "in braces"),
        ("/items/<id>", "in braces"),
        ("/items/<int:id>", "in braces"),
    ],
)
@pytest.mark.parametrize("trailing_slash", [False, True])
def test_what_is_no_pattern_stops_the_start(pattern: Any, says: str, trailing_slash: bool) -> None:
    with pytest.raises(ConfigurationError) as raised:
        Paths(["/fine", pattern], trailing_slash=trailing_slash)
    assert says in str(raised.value)
    assert repr(pattern) in str(raised.value)


@pytest.mark.parametrize(
    ("patterns", "says"), [([], "empty"), ((), "empty"), (None, "are a list"), (7, "are a list"), ("", "begins")]
)
def test_a_list_of_patterns_is_a_list_and_not_empty(patterns: Any, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        Paths(patterns)


def naive(pattern: str, path: str) -> bool:
    """The rule again, without any care for speed."""
    wanted, given_ = pattern.split("/")[1:], path.split("/")[1:]
    for place, segment in enumerate(wanted):
        if segment == "*":
            return True
        if place == len(given_) or (segment != given_[place] and not (segment[0:1] == "{" and given_[place])):
            return False
    return len(wanted) == len(given_)


# Few names, so that patterns share beginnings and paths meet them.
NAMES = st.sampled_from(["a", "b", "{x}", "{y}", "a.b"])
PATTERNS = st.builds(
    lambda names, end: "/" + "/".join([*names, *end]),
    st.lists(NAMES, max_size=4),
    st.sampled_from([[], ["*"], ["a"], [""]]),
).filter(lambda pattern: "//" not in pattern)
TRIED = st.lists(st.sampled_from(["a", "b", "c", "", "{x}", "*", "a.b"]), max_size=6).map(lambda names: "/".join(names))


@given(st.lists(PATTERNS, min_size=1, max_size=8), st.lists(TRIED.map(lambda path: "/" + path) | st.just("")))
@example(["/{x}/"], ["/a", "/a/"])
@example(["/a/{x}", "/{x}/b"], ["/a/b", "/b/b", "/a/a", "/b/a"])
def test_paths_match_what_a_walk_through_them_finds(patterns: list[str], paths: list[str]) -> None:
    exact, loose = Paths(patterns), Paths(patterns, trailing_slash=True)
    for path in paths:
        assert exact.match(path) is any(naive(pattern, path) for pattern in patterns)
        # Without the slash at its end; and with something for a variable there, which may be nothing.
        alike = [path.removesuffix("/"), *([path + "nothing"] if path.endswith("/") else [])]
        assert loose.match(path) is any(
            naive(pattern, path) or any(naive(pattern.removesuffix("/"), reading) for reading in alike)
            for pattern in patterns
        )


@given(st.text() | st.text(alphabet="/*{}ab.", max_size=20))
def test_any_text_is_a_pattern_or_refused_and_any_text_is_matched(text: str) -> None:
    paths = Paths(["/a/*", "/{x}/b", "/c"])
    paths.match(text)
    try:
        Paths([text]).match(text)
    except ConfigurationError:
        return
    assert not ambiguous(text, None)


@pytest.mark.parametrize("path", ["/v1/thing3/77/part", "/below3/a/b", "/exact/3", "/no/such/path"])
def test_a_thousand_patterns_cost_no_more_steps_than_ten(path: str) -> None:
    def steps(count: int) -> int:
        patterns = [
            pattern for n in range(count) for pattern in (f"/v1/thing{n}/{{id}}/part", f"/below{n}/*", f"/exact/{n}")
        ]
        paths = Paths(patterns)
        calls = 0

        def count_call(frame: object, event: str, arg: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        sys.setprofile(count_call)
        try:
            paths.match(path)
        finally:
            sys.setprofile(None)
        return calls

    assert steps(4) == steps(334)


# -- spellings ------------------------------------------------------------------------------------------------

PLAIN = [
    "",
    "/",
    "/a",
    "/a/",
    "/a/b.c/d",
    "/a..b",
    "/.well-known/x",
    "/...",
    "/.../x",
    "/a./b",
    "/a/..b",
    "/a/b..",
    "/:x",
    "/a b",
    "/a+b",
    "/a=b,c",
    "/@me",
    "/~me",
    "/ü/日本",
    "/100%",
    "/100% wool",
    "/%",
    "/%2",
    "/%zz",
    "/%u12",
    "/x|y",
    "/what?",
    "/c#",
    "/a\u2028b",
]
AMBIGUOUS = [
    "//",
    "//a",
    "/a//b",
    "/a//",
    "/a///b",
    "/.",
    "/..",
    "/./",
    "/../",
    "/a/.",
    "/a/..",
    "/a/./b",
    "/a/../b",
    "/../a",
    "/a\\b",
    "\\a",
    "/..\\a",
    "/a;b",
    "/a;",
    "/;/a",
    "/a;x=/../b",
    "/a\0",
    "/\0",
    "/a\n",
    "/a\r\nb",
    "/a\tb",
    "/a\x1f",
    "/a\x7f",
    "/a\ufffd",
    "/a\udcff",
    # Whoever decodes once more, an app that forwards requests say, reads another path.
    "/%2F",
    "/%2e%2e/a",
    "/%61",
    "/a%25b%20",
    "/%u0061",
    "a",
    "a/b",
    ".",
    "..",
    "*",
    " /a",
    "http://example.com/a",
    "example.com:443",
]


@pytest.mark.parametrize("path", PLAIN)
def test_a_path_that_is_read_in_one_way(path: str) -> None:
    assert not ambiguous(path, None)
    assert not ambiguous(path, b"")
    assert not ambiguous(path, b"/a%20b/%C3%BC/100%25")


@pytest.mark.parametrize("path", AMBIGUOUS)
def test_a_path_that_could_be_read_as_another(path: str) -> None:
    assert ambiguous(path, None)
    assert ambiguous(path, b"/a")


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"/a%2Fb", True),
        (b"/a%2fb", True),
        (b"/a%5Cb", True),
        (b"/a%5cb", True),
        (b"/%2F", True),
        (b"%2fa", True),
        (b"/%20/%2f", True),
        # Seen once it is decoded.
        (b"/a/%2e%2e/b", True),
        (b"/a/%2E./b", True),
        (b"/a/.%2e", True),
        (b"/a%3Bb", True),
        (b"/a%00", True),
        (b"/a%0d%0a", True),
        (b"/a%7f", True),
        # No UTF-8: bytes that are none, a slash written too long, a surrogate, a sequence cut short.
        (b"/%ff", True),
        (b"/%c0%af", True),
        (b"/%ed%a0%80", True),
        (b"/a%c3", True),
        # Decoded once, these hold escapes.
        (b"/a%252Fb", True),
        (b"/a/%252e%252e/b", True),
        (b"/%2561", True),
        (b"/%25252561", True),
        (b"/%25%36%31", True),
        (b"/%u0061", True),
        (b"/100%25", False),
        (b"/100%25%20wool", False),
        (b"/a%2", False),
        (b"/a%", False),
        (b"/a%20b", False),
        (b"/%c3%bc", False),
        (b"/a%2Db", False),
        (b"/a%2E", False),
    ],
)
def test_a_request_line_that_could_be_read_in_two_ways(raw: bytes, expected: bool) -> None:
    path = unquote(raw.decode("latin-1"))
    assert ambiguous(path, raw) is expected


def naive_ambiguous(path: str) -> bool:
    segments = path.split("/")
    return (
        bool(re.search("%([0-9a-fA-F]{2}|u[0-9a-fA-F]{4})", path))
        or any(not c.isprintable() and ord(c) < 128 for c in path)
        or bool(set(path) & set("\\;\ufffd"))
        or any(segment in (".", "..") for segment in segments[1:])
        or "" in segments[1:-1]
        or (path != "" and segments[0] != "")
    )


@given(st.text(alphabet="/.ab\\;\0\x7f\ufffd\n %ü", max_size=12) | st.text())
def test_ambiguous_is_what_its_rule_says(path: str) -> None:
    assert ambiguous(path, None) is naive_ambiguous(path)


# -- what an ambiguous path could be read as ----------------------------------------------------------------------


def cut_parameters(path: str) -> str:
    return "/".join(segment.partition(";")[0] for segment in path.split("/"))


def resolved(path: str) -> str:
    kept: list[str] = []
    for segment in path.split("/"):
        if segment == "..":
            kept = kept[:-1] or [""]
        elif segment != ".":
            kept.append(segment)
    return "/".join(kept)


READERS: list[Any] = [
    unquote,
    lambda path: path.replace("\\", "/"),
    lambda path: re.sub("/+", "/", path),
    lambda path: re.sub("^//[^/]*", "", path),  # a host, and its path
    cut_parameters,
    lambda path: path.partition(";")[0],
    lambda path: path.partition("?")[0],
    lambda path: path.partition("#")[0],
    resolved,
    lambda path: "/" + path.partition("/")[2].partition("/")[2],  # a prefix is cut off
]
SPELLED = st.lists(
    st.sampled_from(["admin", "x", "pub", "%61dmin", "%2561dmin", "/", "/", "/", "%2f", "%252f", "\\", "%5c"])
    | st.sampled_from(["..", "%2e", "%252e%2e", ".", ";", "%3b", "a=1", "?", "%", "%25", "#"]),
    max_size=9,
).map(lambda parts: "/" + "".join(parts))


@settings(max_examples=600)
@given(
    SPELLED, st.lists(st.sampled_from(READERS), max_size=6), st.sampled_from(["/admin", "/admin/*", "/pub/{x}/admin"])
)
def test_no_reading_of_a_path_is_missed(target: str, readers: list[Any], pattern: str) -> None:
    """Whatever decodes, splits, resolves and cuts a path, in whatever order: a rule that it may mean knows it."""
    path = unquote(target)
    exact, closing = Paths([pattern]), Paths([pattern], trailing_slash=True)
    reading = path
    for read in readers:
        reading = read(reading)
        if closing.match(reading) or exact.match(reading):
            assert closing.concerned(path)
            assert exact.concerned(path)


@pytest.mark.parametrize(
    ("pattern", "target", "expected"),
    [
        # A scoped package, a project in a group, a URL in a path: none of them is a log-in.
        ("/login", "/pkg/@scope%2fname", False),
        ("/login", "/projects/group%2Fproject/issues", False),
        ("/login", "/proxy/https://example.com/a.png", False),
        ("/login", "/files/C%23.pdf;v=1", False),
        ("/", "/pkg/@scope%2fname", False),
        ("/{id}", "/pkg/@scope%2fname", False),
        ("/{a}/{b}", "/pkg/@scope%2fname", True),
        ("/{a}/{b}/{c}", "/pkg/@scope%2fname", True),
        ("/pkg/*", "/pkg/@scope%2fname", True),
        ("/pkg/{name}", "/pkg/@scope%2fname", True),
        ("/name", "/pkg/@scope%2fname", True),
        ("/name/pkg", "/pkg/@scope%2fname", False),
        ("/", "/a/%2e%2e", True),
        ("/", "//", True),
        ("/", "/;x", True),
        ("/*", "/pkg/@scope%2fname", True),
        # What could be anything.
        ("/login", "/%ff", True),
        ("/login", "/a%00", True),
        ("/login", "/lo%09gin", True),
        ("/login", "*", True),
        ("/login", "http://host/x", True),
        ("/login", "/%c0%ae%c0%ae/x", True),
        ("/login", "/%u0061", True),
        ("/login", "/%" + "25" * 9 + "61", True),
        ("/login", "/" + "a;" * 3000, True),
        ("/login", "/" + "a;" * 300, True),
    ],
)
def test_what_an_ambiguous_path_concerns(pattern: str, target: str, expected: bool) -> None:
    path = unquote(target)
    assert Paths([pattern]).concerned(path, target.encode()) is expected


def test_the_words_of_a_path_are_those_of_all_its_readings() -> None:
    assert words_of("/a/%2e%2e/b%252fc;d=1\\e?f#g") == ["a", "b", "c", "d=1", "e", "f", "g"]
    assert words_of("/") == words_of("") == []


# -- in any case ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("/Admin/*", "/aDMIN/x", True),
        ("/items/{Id}", "/ITEMS/7", True),
        ("/straße", "/STRASSE", True),
        ("/kelvin", "/\u212aELVIN", True),
        ("/items", "/\u0131tems", True),
        ("/items", "/\u0130tems", True),
        ("/items", "/item", False),
    ],
)
def test_a_router_that_ignores_case_is_followed(pattern: str, path: str, expected: bool) -> None:
    assert Paths([pattern], ignore_case=True).match(path) is expected
    assert Paths([pattern]).match(path) is False


@given(st.text(max_size=6).filter(lambda text: not ambiguous("/" + text, None) and not set(text) & set("/{}<>*%?#")))
def test_whatever_a_router_matches_in_any_case_is_matched(text: str) -> None:
    paths = Paths(["/" + text + "x"], ignore_case=True)
    for spelled in (text.lower(), text.upper(), text.swapcase(), text.title(), text.casefold()):
        if re.fullmatch(re.escape("/" + text + "x"), "/" + spelled + "X", re.IGNORECASE):
            assert paths.match("/" + spelled + "X")


# -- the path that the app routes -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "root", "expected"),
    [
        ("/a", "", "/a"),
        ("/api/a", "/api", "/a"),
        ("/api", "/api", ""),
        ("/api/", "/api", "/"),
        ("/apis/a", "/api", "/apis/a"),
        ("/a", "/api", "/a"),
        ("/a/api/b", "/api", "/a/api/b"),
        ("/api/api/a", "/api", "/api/a"),
        ("/api//a", "/api", "//a"),
        ("//api/a", "/api", "//api/a"),
        ("/api/v1/a", "/api/v1", "/a"),
        ("/API/a", "/api", "/API/a"),
    ],
)
def test_the_prefix_is_cut_on_whole_segments(path: str, root: str, expected: str) -> None:
    assert strip_root(path, root) == expected


@given(*[st.text(alphabet="/ab", max_size=6)] * 2)
def test_the_prefix_is_cut_where_starlette_cuts_it(path: str, root: str) -> None:
    assert strip_root(path, root) == get_route_path({"path": path, "root_path": root})
    assert strip_root(root + path, root) == get_route_path({"path": root + path, "root_path": root})


@pytest.mark.parametrize(
    ("path", "root", "prefixes", "expected"),
    [
        ("/a", "", [], set()),
        ("/a", "/api", [], {"/api/a"}),
        ("/a", "api/", [], {"/api/a"}),
        ("/a", "/", [], set()),
        ("/api/a", "", ["/api"], {"/a"}),
        ("/apia", "", ["/api"], {"/a"}),
        ("/api", "", ["/api"], {""}),
        ("/x/api/a", "", ["/api"], set()),
        ("/api/v1/a", "", ["/api", "/v1"], {"/v1/a", "/a"}),
        ("/v1/a", "/api", ["/api", "/v1"], {"/api/v1/a", "/a"}),
        ("/t1/api/a", "", ["/{tenant}/api"], {"/a"}),
        ("/api/api/api/a", "", ["/api"], {"/api/api/a", "/api/a", "/a"}),
    ],
)
def test_other_paths_that_an_app_may_route(path: str, root: str, prefixes: list[str], expected: set[str]) -> None:
    assert readings(path, root, prefixes) == expected


def test_a_prefix_without_end_takes_no_time_without_end() -> None:
    assert len(readings("/a" * 5000, "", ["/a", "/a/a"])) < 100


@pytest.mark.parametrize(
    ("sent", "expected"),
    [(b"", ""), (b"/a", "/a"), ("/ü/日本".encode(), "/ü/日本"), (b"/\xff", "/\ufffd"), (b"/\xc0\xaf", "/\ufffd\ufffd")],
)
def test_a_wsgi_path_is_utf_8(sent: bytes, expected: str) -> None:
    assert decode_wsgi_path(sent.decode("latin-1")) == expected


@given(st.binary())
def test_any_bytes_are_a_path(sent: bytes) -> None:
    assert decode_wsgi_path(sent.decode("latin-1")) == sent.decode("utf-8", "replace")


# -- faults that others had -----------------------------------------------------------------------------------


@pytest.mark.parametrize("slash", [b"%2F", b"%2f", b"%5C", b"%5c"])
def test_cve_2021_29492_an_encoded_slash_is_not_taken_for_one_nor_for_none(slash: bytes) -> None:
    """Between a proxy that keeps `%2F` and an app that decodes it, a rule for a path does not hold."""
    raw = b"/public" + slash + b"..%2fadmin"
    assert ambiguous(unquote(raw.decode()), raw)
    raw = b"/admin" + slash + b"users"
    assert ambiguous(unquote(raw.decode()), raw)
