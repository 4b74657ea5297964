"""The whole story: a provider on a socket, a pool with one key, an app of each framework, and the guard around it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from keyguard import Cause, Key, Keyguard, KeyPool, RateLimit, UpstreamCauses
from keyguard.testing.provider import FakeProvider
from tests.support import django_site

QUESTION = {"model": "m", "messages": [{"role": "user", "content": "Hello?"}]}


class Shop:
    """An app that asks a provider, which admits one request a minute."""

    def __init__(self, provider: FakeProvider, url: str) -> None:
        self.provider = provider
        self.pool = KeyPool([Key("eu", "sk-eu")], profile="openai", origin=url, name="openai", max_wait=0)
        self.url = f"{url}/v1/chat/completions"
        self.records: list[Any] = []
        self.guard = Keyguard(RateLimit("2/minute"), UpstreamCauses(), on_decision=self.records.append)

    def answer(self, response: httpx.Response) -> str:
        response.raise_for_status()
        return str(response.json()["choices"][0]["message"]["content"])

    def ask(self) -> str:
        with httpx.Client(transport=self.pool.transport()) as client:
            return self.answer(client.post(self.url, json=QUESTION, headers=self.headers))

    async def aask(self) -> str:
        async with httpx.AsyncClient(transport=self.pool.async_transport()) as client:
            return self.answer(await client.post(self.url, json=QUESTION, headers=self.headers))

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.pool.placeholder}"}


@pytest.fixture
def shop() -> Iterator[Shop]:
    provider = FakeProvider("openai", keys={"sk-eu": "org"}, limits={"org": {"rpm": 1}}, text="Hello")
    with provider.serving() as url:
        shop = Shop(provider, url)
        try:
            yield shop
        finally:
            shop.pool.close()


def fastapi(shop: Shop, awaited: bool) -> Callable[[], Any]:
    from fastapi import FastAPI
    from starlette.testclient import TestClient

    app = FastAPI()
    app.add_middleware(shop.guard.asgi)
    app.get("/")(shop.aask if awaited else shop.ask)
    client = TestClient(app)
    return lambda: client.get("/")


def flask(shop: Shop) -> Callable[[], Any]:
    from flask import Flask

    app = Flask("shop")
    app.get("/")(shop.ask)
    shop.guard.init_app(app)
    client = app.test_client()
    return lambda: client.get("/")


def django(shop: Shop) -> Callable[[], Any]:
    from django.http import HttpResponse
    from django.test import Client
    from django.urls import path

    urls = type("urls", (), {"urlpatterns": [path("", lambda request: HttpResponse(shop.ask()))]})
    client = Client(raise_request_exception=False)

    def ask() -> Any:
        with django_site.site(shop.guard, ROOT_URLCONF=urls):
            return client.get("/")

    return ask


APPS: dict[str, Callable[[Shop], Callable[[], Any]]] = {
    "FastAPI, in the loop": lambda shop: fastapi(shop, True),
    "FastAPI, in threads": lambda shop: fastapi(shop, False),
    "Flask": flask,
    "Django": django,
}


@pytest.mark.parametrize("app", APPS)
def test_all_keys_run_dry_and_the_caller_is_told_when(shop: Shop, app: str) -> None:
    ask = APPS[app](shop)
    answers = [ask() for _ in range(4)]
    assert [one.status_code for one in answers] == [200, 503, 503, 503], "the limit of 2 a minute is charged once"
    for answer in answers[1:]:
        told = json.loads(answer.text)
        assert told["cause"] == "upstream"
        assert 1 <= int(answer.headers["Retry-After"]) == told["retry_after"] <= 61
    assert [(one.outcome, one.cause, one.reason) for one in shop.records[1:]] == [
        ("refused", Cause.UPSTREAM, "openai-exhausted")
    ] * 3
    assert shop.provider.hits["sk-eu"] <= 2, "what is known to be used up is not asked again"


@pytest.mark.parametrize("app", ["FastAPI, in threads", "Flask"])
def test_no_money_is_left_and_waiting_does_not_help(shop: Shop, app: str) -> None:
    shop.provider.script("*", [shop.provider.error("billing")])
    answer = APPS[app](shop)()
    told = json.loads(answer.text)
    assert (answer.status_code, told["cause"], answer.headers.get("Retry-After")) == (503, "upstream", None)
    assert shop.records[0].reason == "openai-billing"


def test_an_app_with_a_fallback_is_left_alone(shop: Shop) -> None:
    asked = shop.ask

    def with_fallback() -> str:
        try:
            return asked()
        except httpx.HTTPStatusError:
            return "from the fallback"

    shop.ask = with_fallback  # type: ignore[method-assign]
    ask = APPS["FastAPI, in threads"](shop)
    assert [ask().json() for _ in range(2)] == ["Hello", "from the fallback"]
    assert ask().status_code == 429, "the caller's own limit is spent then"
