"""`guard.limit()` and `guard.key()` on all that is a view in Django and in its REST framework."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path, re_path
from django.utils.decorators import method_decorator
from django.views import View

from keyguard import APIKeys, ConfigurationError, Identity, Keyguard, RateLimit, StoreError
from keyguard.django.checks import check_keyguard
from keyguard.django.views import views
from keyguard.stores.memory import MemoryStore
from keyguard.testing import ManualClock
from tests.support.django_rest import RATES, REST, decorated, rest
from tests.support.django_site import CLIENTS, ask, site
from tests.support.every_store import store_of
from tests.support.harness import Ask, ask_asgi, ask_wsgi

NAMES = [*decorated(Keyguard(store="memory://"))]


@contextmanager
def project(stack: Keyguard, views: dict[str, Any], **settings: Any) -> Iterator[None]:
    urls = type("urls", (), {"urlpatterns": [path(name, view) for name, view in views.items()]})
    of_rest = {"UNAUTHENTICATED_USER": None, **settings.pop("REST_FRAMEWORK", {})}
    with site(stack, ROOT_URLCONF=urls, REST_FRAMEWORK=of_rest, **settings):
        yield


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize("kind", ["memory", "sqlite", "redis"])
def test_views_of_every_form_are_limited(kind: str, client: str, request: Any, tmp_path: Path) -> None:
    stack = Keyguard(RateLimit("100/minute", by="ip"), store=store_of(kind, request, tmp_path))
    with project(stack, decorated(stack)):
        for name in NAMES:
            answers = [ask(client, f"/{name}") for _ in range(3)]
            assert [answer.status for answer in answers] == [200, 200, 429], name
            assert '"ip:100/minute";r=' in answers[0].headers["RateLimit"], name
            assert answers[2].headers["Retry-After"] == "60", name
            problem = json.loads(answers[2].body)
            assert (problem["cause"], problem["status"]) == ("usage", 429)
    # Those that were refused were charged to no limit.
    (outer,) = [use for use in stack.limits.peek("127.0.0.1") if use.name == "ip:100/minute"]
    assert outer.spent == 2 * len(NAMES)


def lookup(key: str) -> Identity | None:
    scopes = {"ada-key": "read", "eve-key": "read write"}.get(key)
    return None if scopes is None else Identity(key[:3], scopes=frozenset(scopes.split()))


@pytest.mark.parametrize("client", CLIENTS)
def test_keys_and_their_scopes(client: str) -> None:
    stack = Keyguard(APIKeys(lookup=lookup, optional=True), store="memory://")

    class Posts(View):
        @method_decorator(stack.key(scopes=["write"]), name="post")
        def post(self, request: HttpRequest) -> HttpResponse:
            return HttpResponse("done")

    with project(stack, {"open": lambda request: HttpResponse("done"), "posts": Posts.as_view()}):
        assert ask(client, "/open").status == 200
        assert ask(client, "/posts", "POST").status == 401
        answer = ask(client, "/posts", "POST", x_api_key="ada-key")
        assert (answer.status, "insufficient_scope" in answer.headers["WWW-Authenticate"]) == (403, True)
        assert ask(client, "/posts", "POST", x_api_key="eve-key").status == 200


def test_each_class_counts_for_itself_and_its_instances_together() -> None:
    stack = Keyguard(RateLimit("100/minute", by="ip"), store="memory://")
    marker = method_decorator(stack.limit("1/minute"), name="dispatch")

    class One(View):
        def get(self, request: HttpRequest) -> HttpResponse:
            return HttpResponse("done")

    class Other(One):
        pass

    One, Other = marker(One), marker(Other)
    with project(stack, {"one": One.as_view(), "again": One.as_view(), "other": Other.as_view()}):
        statuses = [ask("Client", target).status for target in ("/one", "/again", "/other", "/other")]
    assert statuses == [200, 429, 200, 429]


@pytest.mark.parametrize("client", CLIENTS)
def test_without_the_middleware_no_view_runs(client: str) -> None:
    stack = Keyguard(APIKeys(lookup=lookup), RateLimit("100/minute", by="ip"), store="memory://")
    views = {**decorated(stack), **{name: REST[name] for name in REST if name not in ("unscoped", "function")}}
    with project(stack, views, MIDDLEWARE=[], REST_FRAMEWORK={"DEFAULT_THROTTLE_RATES": RATES}):
        for name in views:
            assert ask(client, f"/{name}").status == 500, name


def test_outside_guards_do_as_well() -> None:
    stack = Keyguard(RateLimit("100/minute", by="ip"), store="memory://")
    with project(stack, decorated(stack), MIDDLEWARE=["keyguard.django.RefusedMiddleware"]):
        asgi, wsgi = stack.asgi(get_asgi_application()), stack.wsgi(get_wsgi_application())
        for name in NAMES:
            answers = [ask_asgi(asgi, Ask(f"/{name}"), lint=False).status for _ in range(2)]
            assert [*answers, ask_wsgi(wsgi, Ask(f"/{name}"), lint=False).status] == [200, 200, 429], name


# -- REST framework -----------------------------------------------------------------------------------------------


def keyed(**settings: Any) -> Keyguard:
    return Keyguard(APIKeys(lookup=lookup, optional=True), RateLimit("100/minute", by="ip"), **settings)


@contextmanager
def rest_project(stack: Keyguard, **settings: Any) -> Iterator[None]:
    with project(stack, REST, REST_FRAMEWORK={"DEFAULT_THROTTLE_RATES": RATES}, **settings):
        yield


USERS: dict[str, Any] = {"ada": rest.KeyUser(Identity("Ada of Django"))}


def user_of(identity: Identity) -> Any:
    return USERS.get(identity.subject)


@pytest.mark.parametrize("client", CLIENTS)
def test_rest_framework_knows_the_caller(client: str) -> None:
    with rest_project(keyed(store="memory://")):
        assert json.loads(ask(client, "/open").body) == {"user": None, "auth": None}
        assert json.loads(ask(client, "/open", x_api_key="ada-key").body) == {"user": "ada", "auth": "ada"}
        assert ask(client, "/open", x_api_key="wrong").status == 401
        answer = ask(client, "/closed")
        assert (answer.status, answer.headers["WWW-Authenticate"]) == (401, 'Bearer realm="api"')
        assert ask(client, "/closed", x_api_key="ada-key").status == 200


def test_the_settings_name_who_the_user_is() -> None:
    with rest_project(keyed(store="memory://"), KEYGUARD_USER=f"{__name__}.user_of"):
        assert json.loads(ask("Client", "/closed", x_api_key="ada-key").body)["user"] == "Ada of Django"
        assert ask("Client", "/closed", x_api_key="eve-key").status == 401


@pytest.mark.parametrize("client", CLIENTS)
def test_throttles(client: str) -> None:
    clock = ManualClock()
    stack = keyed(store=MemoryStore(clock=clock), clock=clock)
    with rest_project(stack):
        targets = ["/by-user", "/by-user-too", "/by-user"]
        answers = [ask(client, target, x_api_key="ada-key") for target in targets]
        assert [answer.status for answer in answers] == [200, 200, 429]
        assert '"user:2/minute";r=1' in answers[0].headers["RateLimit"]
        assert answers[2].headers["Retry-After"] == "60"
        assert json.loads(answers[2].body) == {"detail": "Request was throttled. Expected available in 60 seconds."}
        assert ask(client, "/by-user", x_api_key="eve-key").status == 200
        assert [ask(client, "/function").status for _ in range(3)] == [200, 200, 429]
        # Those who are refused are charged to no limit.
        assert [use.spent for use in stack.limits.peek("127.0.0.1") if use.name == "ip:100/minute"] == [5]
        clock.advance("60 seconds")
        assert ask(client, "/by-user", x_api_key="ada-key").status == 200


def test_throttles_of_other_kinds() -> None:
    with rest_project(keyed(store="memory://")):
        assert [ask("Client", "/by-address").status for _ in range(2)] == [200, 429]
        assert [ask("Client", "/by-address", x_api_key="ada-key").status for _ in range(2)] == [200, 200]
        assert [ask("Client", "/scoped").status for _ in range(2)] == [200, 429]
        assert [ask("Client", "/unscoped").status for _ in range(2)] == [200, 200]
        assert [ask("Client", "/by-month").status for _ in range(3)] == [200, 200, 429]


def test_of_two_throttles_all_or_none_is_charged() -> None:
    stack = keyed(store="memory://")
    with rest_project(stack):
        assert [ask("Client", "/by-user").status for _ in range(2)] == [200, 200]
        assert ask("Client", "/two").status == 429
        assert ask("Client", "/two", x_api_key="ada-key").status == 200
        assert [ask("Client", "/by-month").status for _ in range(3)] == [200, 200, 429]


def test_rates_may_change_from_test_to_test() -> None:
    stack = keyed(store="memory://")
    for rate, statuses in {"2/min": [200, 200, 429], "1/min": [200, 429, 429], "3/min": [200, 200, 200]}.items():
        with project(stack, REST, REST_FRAMEWORK={"DEFAULT_THROTTLE_RATES": {"user": rate}}):
            assert [ask("Client", "/by-user").status for _ in range(3)] == statuses
    with project(stack, REST, REST_FRAMEWORK={"DEFAULT_THROTTLE_RATES": {"user": ["5/day", "1/s"]}}):
        assert [ask("Client", "/by-user").status for _ in range(2)] == [200, 429]
    with project(stack, REST, REST_FRAMEWORK={"DEFAULT_THROTTLE_RATES": {"user": None}}):
        assert [ask("Client", "/by-user").status for _ in range(2)] == [200, 200]


class Down(MemoryStore):
    def execute(self, ops: Any) -> Any:
        raise StoreError("down")


def test_a_throttle_that_cannot_know_says_so() -> None:
    with rest_project(Keyguard(APIKeys(lookup=lookup, optional=True, guesses=None), store=Down())):
        answer = ask("Client", "/strict")
        assert (answer.status, json.loads(answer.body)["cause"]) == (503, "fault")


# -- checks ---------------------------------------------------------------------------------------------------------


def told(stack: Keyguard, views: dict[str, Any], **settings: Any) -> list[Any]:
    of_rest = {"DEFAULT_THROTTLE_RATES": RATES, **settings.pop("REST_FRAMEWORK", {})}
    with project(stack, views, REST_FRAMEWORK=of_rest, **settings):
        return check_keyguard()


@pytest.mark.parametrize("name", [*NAMES, *[name for name in REST if name != "function"]])
def test_views_that_use_keyguard_need_the_middleware(name: str) -> None:
    stack = keyed(store="memory://")
    views = {name: {**decorated(stack), **REST}[name]}
    assert [one.id for one in told(stack, views)] == []
    errors = told(stack, views, MIDDLEWARE=[], KEYGUARD=None)
    assert [one.id for one in errors] == ["keyguard.E002"]
    assert "Django's" not in errors[0].msg


def test_rules_of_another_guard_are_told_of() -> None:
    other = keyed(store="memory://")
    errors = told(keyed(store="memory://"), {"plain": decorated(other)["plain"]})
    assert [one.id for one in errors] == ["keyguard.E005"]


def test_throttles_and_keys_that_cannot_work_are_told_of() -> None:
    bare = Keyguard(RateLimit("2/minute", by="ip", name="user"), store="memory://")
    views = {name: REST[name] for name in ("by-user", "scoped", "open")}
    errors = told(bare, views, REST_FRAMEWORK={"DEFAULT_THROTTLE_RATES": {"user": "2/min"}})
    assert [one.id for one in errors] == ["keyguard.E006"] * 5  # each of the views authenticates by keys
    assert any("has no rate for 'uploads'" in one.hint for one in errors)
    assert any("two limits would be called" in one.hint for one in errors)


def test_rules_at_methods_are_known_before_a_request_and_those_that_clash_are_told_of() -> None:
    stack = keyed(store="memory://")
    twice = [stack.limit("2/minute", by="ip"), stack.limit("2/minute", by="ip")]

    class One(View):
        @method_decorator(stack.limit("3/minute", by="ip"))
        def get(self, request: HttpRequest) -> HttpResponse:
            return HttpResponse("done")

    class Clashing(View):
        @method_decorator(twice)
        def get(self, request: HttpRequest) -> HttpResponse:
            return HttpResponse("done")

    with project(stack, {"one": One.as_view(), "plain": lambda request: HttpResponse("done")}):
        assert check_keyguard() == []
        assert [rule.place.rpartition(".locals.")[2] for rule in stack.markers.rules] == ["One.get"]
        before = stack.markers.rules
        assert [ask("Client", "/one").status for _ in range(4)] == [200, 200, 200, 429]
        assert stack.markers.rules == before
    with project(stack, {"clashing": Clashing.as_view()}):
        (error,) = check_keyguard()
        assert (error.id, "Clashing" in error.msg) == ("keyguard.E007", True)
        assert ask("Client", "/clashing").status == 500


def test_stacks_whose_requests_are_not_noted_have_no_rules() -> None:
    stack = Keyguard(RateLimit("9/minute", by="ip"), store="memory://", handlers=False)
    with pytest.raises(ConfigurationError, match="handlers=True"):
        stack.limit("1/minute")
    assert [one.id for one in told(stack, {"by-month": REST["by-month"]})] == ["keyguard.E006"] * 2
    with project(stack, {"plain": lambda request: HttpResponse(repr(request.keyguard.pressure))}):
        assert ask("Client", "/plain").status == 200  # the guards do their work, and views have the state


# -- guard.testing() --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [False, True], ids=["new", "in use"])
@pytest.mark.parametrize("client", CLIENTS)
def test_a_project_under_test(client: str, before: bool, tmp_path: Path) -> None:
    """Whether or not its rules and throttles were asked before."""
    stack = keyed(store=f"sqlite:///{tmp_path}/keys.db")
    with project(stack, {**REST, **decorated(stack)}, REST_FRAMEWORK={"DEFAULT_THROTTLE_RATES": RATES}):
        used = ["/by-user", "/plain", "/async-dispatch", "/rest"]
        if before:
            assert [ask(client, target).status for target in used * 3] == [200] * 8 + [429] * 4
        for _ in range(2):
            with stack.testing(identity="ada") as g:
                assert json.loads(ask(client, "/open").body) == {"user": "ada", "auth": "ada"}
                for _ in range(2):
                    assert [ask(client, target).status for target in used * 3] == [200] * 8 + [429] * 4
                    g.advance("1 minute")
        assert [ask(client, target).status for target in used] == ([429] if before else [200]) * 4


def test_a_view_at_several_urls_is_told_of_once() -> None:
    """A pattern may have several forms, and a view several patterns."""

    def view(request: HttpRequest) -> HttpResponse:
        return HttpResponse()

    urls = type("urls", (), {"urlpatterns": [path("one", view), re_path("^two/(?:three/)?$", view)]})
    with site(Keyguard(store="memory://"), ROOT_URLCONF=urls):
        assert [*views()] == [view]
