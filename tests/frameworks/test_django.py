"""`keyguard.django.Middleware`: the same guards as around the application, in Django's own chain."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
from typing import Any
from wsgiref.util import FileWrapper

import pytest
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse
from django.test import AsyncClient, AsyncRequestFactory, Client, RequestFactory
from django.test.utils import override_settings

from keyguard import (
    APIKeys,
    Concurrency,
    ConfigurationError,
    Identity,
    IPFilter,
    Keyguard,
    RateLimit,
    ResponseCache,
    form_field,
    json_field,
)
from keyguard.django import Middleware
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock
from tests.drivers.test_table import check
from tests.support import django_site, frameworks
from tests.support.django_site import CLIENTS, OURS, ask, seen, site, told
from tests.support.harness import Ask, aask, ask_asgi, ask_wsgi
from tests.support.servers import wait_until
from tests.support.table import ROWS, Stacks

HERE = "tests.support.django_site"
clients = pytest.mark.parametrize("client", CLIENTS)
inside = pytest.mark.parametrize("inside", ["", "SyncOnly", "AsyncOnly"])


def lookup(key: str) -> Identity | None:
    return Identity("ada", plan="free", scopes=frozenset({"read"})) if key == "ada-key" else None


def keyed(*more: Any, **settings: Any) -> Keyguard:
    return Keyguard(APIKeys(lookup=lookup), RateLimit("2/minute", by="key"), *more, store="memory://", **settings)


# -- the same answers -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["", "SyncOnly", "AsyncOnly"])
def test_the_table_of_requests_gets_the_answers_that_raw_apps_get(mode: str) -> None:
    """Also if what stands further in is of the other kind than Django's handler: Django has threads or loops then."""
    frameworks._django()
    middleware = [OURS, *([f"{HERE}.{mode}"] if mode else [])]
    rows = ROWS if not mode else ROWS[::5]  # each hop between threads takes time
    for row in rows:
        stacks = Stacks()
        one, other = stacks.pair(row.stack)
        with override_settings(MIDDLEWARE=middleware, KEYGUARD=one):
            asgi = get_asgi_application()
        with override_settings(MIDDLEWARE=middleware, KEYGUARD=other):
            wsgi = get_wsgi_application()
        for before in row.before:
            filled = stacks.fill(before)
            assert ask_asgi(asgi, filled, lint=False).status == ask_wsgi(wsgi, filled).status
        stacks.clock.advance(row.wait)
        filled = stacks.fill(row.ask)
        answer, twin = ask_asgi(asgi, filled, lint=False), ask_wsgi(wsgi, filled)
        check(row, answer)
        answer.headers.sort()
        twin.headers.sort()
        assert answer == twin, f"{row.stack}: {row.name}"


@clients
@inside
def test_test_clients_are_guarded(client: str, inside: str) -> None:
    with site(keyed(), *([f"{HERE}.{inside}"] if inside else [])):
        for target in ("/view", "/loop"):
            assert ask(client, target).status == 401
        for target in ("/view", "/loop"):
            answer = ask(client, target, x_api_key="ada-key")
            assert (answer.status, json.loads(answer.body)) == (200, {"caller": "ada", "limits": ["key:2/minute"]})
            assert answer.headers["RateLimit"].startswith('"key:2/minute";r=')
        answer = ask(client, "/view", x_api_key="ada-key")
        assert (answer.status, answer.headers["Retry-After"]) == (429, "60")
        assert json.loads(answer.body)["cause"] == "usage"


@clients
@inside
def test_streams_know_their_request_and_files_are_whole(client: str, inside: str, recwarn: Any) -> None:
    stack = Keyguard(APIKeys(lookup=lookup), store="memory://")
    with site(stack, *([f"{HERE}.{inside}"] if inside else [])):
        for target in ("/stream", "/async-stream"):
            assert ask(client, target, x_api_key="ada-key").body == b"ada,ada,", target
        with open(django_site.__file__, "rb") as source:
            assert ask(client, "/file", x_api_key="ada-key").body == source.read()
    # Django itself warns of iterators of the other world, and of nothing else.
    assert all("must consume" in str(warning.message) for warning in recwarn)


def test_a_file_is_sent_by_the_server_itself_as_without_guards() -> None:
    with site(Keyguard(RateLimit("9/minute", by="ip"), store="memory://")):
        heads: list[Any] = []
        environ = {**Ask("/file").environ(), "wsgi.file_wrapper": FileWrapper}
        body = get_wsgi_application()(environ, lambda status, fields: heads.append(dict(fields)))
        assert type(body) is FileWrapper
        assert heads[0]["RateLimit"].startswith('"ip:9/minute";r=8')
        body.close()


@clients
def test_a_body_reaches_the_view(client: str) -> None:
    with site(keyed()):
        answer = ask(client, "/echo?a=b", "POST", b"x" * 100_000, x_api_key="ada-key")
        told = json.loads(answer.body)
        assert (told["body"], told["query"], told["headers"]["X-Api-Key"]) == ("x" * 100_000, {"a": "b"}, "ada-key")


def test_keys_are_taken_off_on_paths_that_are_not_ascii() -> None:
    stack = Keyguard(APIKeys(lookup=lookup, strip=True), store="memory://")
    keyed = Ask("/%C3%A9cho", (("X-API-Key", "ada-key"),))
    with site(stack):
        for answer in (ask_asgi(get_asgi_application(), keyed, lint=False), ask_wsgi(get_wsgi_application(), keyed)):
            assert answer.status == 200
            assert "ada-key" not in answer.body.decode()


def test_paths_that_are_not_ascii_are_routed_and_guarded_alike() -> None:
    path = Ask("/gr%C3%BC%C3%9Fe")
    with site(Keyguard(APIKeys(lookup=lookup, public=["/grüße"]), store="memory://")):
        for answer in (ask_asgi(get_asgi_application(), path, lint=False), ask_wsgi(get_wsgi_application(), path)):
            assert answer.status == 200
        assert ask("Client", path.target).status == 200
        assert ask("Client", "/view").status == 401


@clients
def test_rules_see_the_path_that_middleware_further_out_has_made(client: str) -> None:
    closed = Keyguard(IPFilter(allow=["10.0.0.0/8"], paths=["/view"]), store="memory://")
    with site(closed, outside=(f"{HERE}.OtherPath",)):
        assert [ask(client, target).status for target in ("/en/view", "/view", "/en/page")] == [403, 403, 200]


@clients
def test_an_error_of_a_view_is_django_s_own(client: str) -> None:
    stack = Keyguard(Concurrency(1, by="ip"), store="memory://")
    with site(stack):
        for _ in range(3):  # what was held is given back
            assert ask(client, "/broken").status == 500
        assert ask(client, "/view").status == 200


def test_fields_with_underscores_reach_no_view_under_asgi() -> None:
    with site(Keyguard(RateLimit("9/minute", by="ip"), store="memory://")):
        app = get_asgi_application()
        twice = Ask("/echo", (("X-Tenant", "mine"), ("x_tenant", "theirs"), ("x_other", "theirs")))
        headers = json.loads(ask_asgi(app, twice, lint=False).body)["headers"]
        assert headers["X-Tenant"] == "mine"
        assert "X-Other" not in headers


# -- handlers ---------------------------------------------------------------------------------------------------------


def spent(store: MemoryStore, stack: Keyguard) -> int:
    return sum(use.spent for use in stack.limits.peek("127.0.0.1"))


@clients
@inside
@pytest.mark.parametrize("target", ["/reserving", "/reserving-loop", "/reserving-stream", "/reserving-async-stream"])
def test_views_reserve_and_charge(client: str, inside: str, target: str, recwarn: Any) -> None:
    store = MemoryStore()
    stack = Keyguard(RateLimit("10/minute", by="ip", cost=0, name="tokens"), store=store)
    with site(stack, *([f"{HERE}.{inside}"] if inside else [])):
        assert ask(client, f"{target}?units=5").status == 200
        assert spent(store, stack) == 3
        if client == "AsyncClient" and "stream" in target:
            return  # its head has gone when it is refused: as with `guard.asgi`, it is cut short
        answer = ask(client, f"{target}?units=9")
        assert (answer.status, json.loads(answer.body)["cause"]) == (429, "usage")
        assert spent(store, stack) == 3


def test_what_a_stream_holds_is_given_back_when_it_ends_or_is_left() -> None:
    stack = Keyguard(Concurrency(1, by="ip"), store="memory://")
    with site(stack):
        client = Client()
        response: Any = client.get("/stream")
        assert client.get("/view").status_code == 429
        response.getvalue()
        response.close()
        assert client.get("/view").status_code == 200
        response = client.get("/stream")
        response.close()  # nobody has asked for a part of it
        assert client.get("/view").status_code == 200


def test_what_an_async_stream_holds_is_given_back_when_it_ends_or_is_left() -> None:
    async def story() -> None:
        client = AsyncClient()
        response: Any = await client.get("/async-stream")
        assert (await client.get("/view")).status_code == 429
        assert [part async for part in response] == [b",", b","]
        assert (await client.get("/view")).status_code == 200
        response = await client.get("/async-stream")
        parts = aiter(response)
        assert await anext(parts) == b","
        assert (await client.get("/view")).status_code == 429
        await asyncio.to_thread(response.close)  # as Django does when the client has gone
        for _ in range(1000):
            if (await client.get("/view")).status_code == 200:
                break
            await asyncio.sleep(0)
        else:
            raise AssertionError("the slot was not given back")

    with site(Keyguard(Concurrency(1, by="ip"), store="memory://")):
        asyncio.run(story())
    assert seen == ["ended", "ended"]


@pytest.mark.parametrize("target", ["/endless", "/slow"])
def test_what_a_request_holds_is_given_back_when_its_client_leaves(target: str) -> None:
    async def story() -> int:
        app, begun = get_asgi_application(), asyncio.Event()
        told.append(begun.set)
        gone = asyncio.Event()
        bodies = [{"type": "http.request", "body": b"", "more_body": False}]

        async def receive() -> Any:
            if bodies:
                return bodies.pop()
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            await asyncio.sleep(0)

        asked = asyncio.create_task(app(Ask(target).scope(), receive, send))
        await asyncio.wait_for(begun.wait(), 60)
        held = (await aask(app, Ask("/view"), lint=False)).status
        gone.set()
        await asked
        for _ in range(1000):
            if (await aask(app, Ask("/view"), lint=False)).status == 200:
                break
            await asyncio.sleep(0)
        else:
            raise AssertionError("the slot was not given back")
        return held

    with site(Keyguard(Concurrency(1, by="ip"), store="memory://")):
        assert asyncio.run(story()) == 429
    assert seen == ["ended"]


def test_after_its_request_nothing_is_known_of_it() -> None:
    import keyguard

    async def story() -> None:
        response: Any = await AsyncClient().get("/async-stream", headers={"X-API-Key": "ada-key"})
        with pytest.raises(keyguard.OutsideRequest):
            keyguard.here()
        parts = [part async for part in response]
        with pytest.raises(keyguard.OutsideRequest):
            keyguard.here()
        assert parts == [b"ada,", b"ada,"]

    with site(keyed()):
        asyncio.run(story())


# -- a cache ----------------------------------------------------------------------------------------------------------


@clients
def test_pages_are_cached(client: str) -> None:
    with site(Keyguard(ResponseCache(), store="memory://")):
        first, second = ask(client, "/page"), ask(client, "/page")
        assert (first.body, second.body, seen) == (b"page 1", b"page 1", ["/page"])
        assert "hit" in second.headers["Cache-Status"]
        same = ask(client, "/page", if_none_match='"one"')
        assert (same.status, same.body, "Content-Type" in same.headers) == (304, b"", False)
        assert ask(client, "/page?cookie=1").cookies["session"].value == "1"


@clients
def test_stale_pages_are_renewed_in_the_background(client: str) -> None:
    clock = ManualClock()
    store = MemoryStore(clock=clock)
    with site(Keyguard(ResponseCache(), store=store, clock=clock)):
        if client == "Client":
            ask(client, "/stale")
            clock.advance("61 seconds")
            assert ask(client, "/stale").body == b"page 1"
            wait_until(lambda: len(seen) == 2, "the page to be made anew")
            wait_until(lambda: ask(client, "/stale").body == b"page 2", "the new page")
        else:
            asyncio.run(renewed(clock))
    assert len(seen) == 2


async def renewed(clock: ManualClock) -> None:
    client = AsyncClient()
    await client.get("/stale")
    clock.advance("61 seconds")
    response: Any = await client.get("/stale")
    assert response.content == b"page 1"
    async with asyncio.timeout(60):
        while response.content != b"page 2":
            await asyncio.sleep(0.005)
            response = await client.get("/stale")


# -- settings that are wrong ------------------------------------------------------------------------------------------

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "none": ({"KEYGUARD": None}, "no KEYGUARD"),
    "missing module": ({"KEYGUARD": "no.such.guard"}, "cannot be imported"),
    "missing name": ({"KEYGUARD": f"{HERE}.nothing"}, "cannot be imported"),
    "no path": ({"KEYGUARD": "guard"}, "cannot be imported"),
    "another thing": ({"KEYGUARD": f"{HERE}.view"}, "is of type function"),
    "a number": ({"KEYGUARD": 7}, "is of type int"),
    "twice": ({"MIDDLEWARE": [OURS, OURS]}, "stands twice"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_settings_do_not_start(name: str) -> None:
    settings, says = WRONG[name]
    with site(keyed()), override_settings(**settings):
        for start in (get_wsgi_application, get_asgi_application, lambda: Client().get("/view")):
            with pytest.raises(ConfigurationError, match=says):
                start()


def test_async_functions_do_not_start_under_wsgi_and_run_under_asgi() -> None:
    async def known(key: str) -> Identity | None:
        return lookup(key)

    stack = Keyguard(APIKeys(lookup=known), store="memory://")
    with site(stack):
        with pytest.raises(ConfigurationError, match="is async"):
            get_wsgi_application()
        assert ask("AsyncClient", "/view", x_api_key="ada-key").status == 200
    with site(stack, f"{HERE}.SyncOnly"):
        assert ask("AsyncClient", "/view", x_api_key="ada-key").status == 200


def test_a_cache_inside_of_sessions_does_not_start() -> None:
    sessions = "django.contrib.sessions.middleware.SessionMiddleware"
    outside = site(Keyguard(ResponseCache(), store="memory://"), outside=(sessions,))
    with outside, pytest.raises(ConfigurationError, match="would not see what it adds"):
        get_wsgi_application()


# -- alone, and with others -------------------------------------------------------------------------------------------


def test_it_works_with_request_factories() -> None:
    async def respond(request: Any) -> HttpResponse:
        return HttpResponse(request.keyguard.caller.subject)

    with site(keyed()):
        closed = Middleware(lambda request: HttpResponse("hello"))
        assert closed(RequestFactory().get("/")).status_code == 401
        open_ = Middleware(respond)
        asked: Any = open_(AsyncRequestFactory().get("/", headers={"X-API-Key": "ada-key"}))
        assert asyncio.run(asked).content == b"ada"


def test_around_the_application_as_well_it_decides_once() -> None:
    stack = keyed()
    key = ("X-API-Key", "ada-key")
    with site(stack):
        wsgi, asgi = stack.wsgi(get_wsgi_application()), stack.asgi(get_asgi_application())
        assert ask_wsgi(wsgi, Ask("/view")).status == 401
        assert ask_wsgi(wsgi, Ask("/view", (key,))).status == 200
        assert ask_asgi(asgi, Ask("/view", (key,)), lint=False).status == 200
        assert ask_wsgi(wsgi, Ask("/view", (key,))).status == 429
        assert ask("Client", "/view", x_api_key="ada-key").status == 429


@pytest.mark.parametrize("forced", [None, "/api"])
def test_a_prefix_that_the_settings_force_is_none_of_the_path(forced: str | None) -> None:
    """What is closed around the application is closed within it, and what is served there is served here."""
    closed = Keyguard(IPFilter(allow=["10.0.0.0/8"], paths=["/view"]), store="memory://")
    targets = ["/view", "/api/view", "/page", "/api/page"]
    with site(closed, FORCE_SCRIPT_NAME=forced):
        asgi, wsgi = get_asgi_application(), get_wsgi_application()
        within = [[ask_asgi(asgi, Ask(one), lint=False).status, ask_wsgi(wsgi, Ask(one)).status] for one in targets]
    with site(closed, MIDDLEWARE=[], FORCE_SCRIPT_NAME=forced):
        asgi, wsgi = closed.asgi(get_asgi_application()), closed.wsgi(get_wsgi_application())
        around = [[ask_asgi(asgi, Ask(one), lint=False).status, ask_wsgi(wsgi, Ask(one)).status] for one in targets]
    for inner, outer in zip(within, around, strict=True):
        for status, wanted in zip(inner, outer, strict=True):
            assert status == wanted or (wanted, status) == (404, 403)


@clients
def test_keys_that_are_taken_off_reach_no_view(client: str) -> None:
    sources = ["x-api-key", "cookie:key", "query:key"]
    stack = Keyguard(APIKeys(lookup=lookup, sources=sources, strip=True), store="memory://")
    for outside in ((), (f"{HERE}.Reading",), (f"{HERE}.Reading", f"{HERE}.OtherPath")):
        with site(stack, outside=outside):
            path = "/en/echo" if len(outside) == 2 else "/echo"
            for headers, target in (({"x_api_key": "ada-key"}, f"{path}?a=b"), ({}, f"{path}?key=ada-key&a=b")):
                told = json.loads(ask(client, target, **headers).body)
                assert "ada-key" not in json.dumps(told)
                assert told["query"] == {"a": "b"}
            told = json.loads(ask(client, path, cookie="key=ada-key; b=c").body)
            assert "ada-key" not in json.dumps(told)
            assert [*told["cookies"]] == ["b"]


@clients
@pytest.mark.parametrize("outside", ["", "ReadingBody"])
def test_limits_by_what_a_body_says_leave_it_to_the_view(client: str, outside: str) -> None:
    logins = RateLimit("2/minute", by=json_field("user"), paths=["/echo"], methods=["POST"])
    forms = RateLimit("2/minute", by=form_field("user"), paths=["/form"], methods=["POST"])
    with site(Keyguard(logins, forms, store="memory://"), outside=(f"{HERE}.{outside}",) if outside else ()):
        bodies = [json.dumps({"user": user, "more": "x" * 5000}).encode() for user in ("ada", "ada", "ada", "eve")]
        answers = [ask(client, "/echo", "POST", body, content_type="application/json") for body in bodies]
        assert [answer.status for answer in answers] == [200, 200, 429, 200]
        assert json.loads(answers[3].body)["body"].encode() == bodies[3]
        form = "application/x-www-form-urlencoded"
        answers = [ask(client, "/form", "POST", b"user=ada&b=c", content_type=form) for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 429]
        assert json.loads(answers[0].body) == {"user": "ada", "b": "c"}


@clients
def test_a_stack_that_is_not_enabled_refuses_nobody(client: str) -> None:
    stack = keyed(enabled=False)
    with site(stack):
        for target in ("/view", "/loop"):
            assert ask(client, target).status == 200


def test_threads_do_not_mix_requests_up() -> None:
    stack = Keyguard(APIKeys(lookup=lambda key: Identity(key)), store="memory://")
    wrong: list[Any] = []

    def work(name: str) -> None:
        for _ in range(20):
            told = json.loads(ask("Client", "/view", x_api_key=name).body)
            if told["caller"] != name:
                wrong.append(told)

    with site(stack):
        threads = [threading.Thread(target=work, args=(f"caller-{number}",)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


@pytest.mark.alone
def test_a_stream_is_gone_when_it_was_sent() -> None:
    """Without a search for garbage: what guards hear to its end does not hold itself."""
    with site(Keyguard(Concurrency(9, by="ip"), store="memory://")):
        wsgi, asgi = get_wsgi_application(), get_asgi_application()
        ask_wsgi(wsgi, Ask("/kept-stream"))
        ask_asgi(asgi, Ask("/kept-async-stream"), lint=False)
        gc.collect()
        gc.disable()
        try:
            ask_wsgi(wsgi, Ask("/kept-stream"))
            ask_asgi(asgi, Ask("/kept-async-stream"), lint=False)
            assert [one() for one in django_site.streams] == [None] * 4
        finally:
            gc.enable()
