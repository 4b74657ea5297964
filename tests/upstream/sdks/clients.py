"""Calls of providers' own clients: one text from the model, plain or as a stream, blocking or awaited."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from keyguard import KeyPool

MESSAGES: Any = [{"role": "user", "content": "hi"}]


@dataclass(frozen=True)
class Sdk:
    """One client, and how a text is got by it."""

    package: str
    profile: str
    plain: Callable[[KeyPool, str, bool], str]
    awaited: Callable[[KeyPool, str, bool], Coroutine[Any, Any, str]]
    exhausted: str
    """The exception with which it tells of a limit that is used up."""

    @property
    def module(self) -> str:
        return {"google-genai": "google"}.get(self.package, self.package)


def _openai(pool: KeyPool, url: str) -> Any:
    import openai

    client = openai.DefaultHttpxClient(transport=pool.transport())
    return openai.OpenAI(base_url=f"{url}/v1", api_key=pool.placeholder, http_client=client)


def _async_openai(pool: KeyPool, url: str) -> Any:
    import openai

    client = openai.DefaultAsyncHttpxClient(transport=pool.async_transport())
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=pool.placeholder, http_client=client)


def _azure(pool: KeyPool, url: str) -> Any:
    import openai

    client = openai.DefaultHttpxClient(transport=pool.transport())
    return openai.AzureOpenAI(
        azure_endpoint=url, api_version="2024-10-21", api_key=pool.placeholder, http_client=client
    )


def _async_azure(pool: KeyPool, url: str) -> Any:
    import openai

    client = openai.DefaultAsyncHttpxClient(transport=pool.async_transport())
    return openai.AsyncAzureOpenAI(
        azure_endpoint=url, api_version="2024-10-21", api_key=pool.placeholder, http_client=client
    )


def _chat(make: Callable[[KeyPool, str], Any]) -> Callable[[KeyPool, str, bool], str]:
    def call(pool: KeyPool, url: str, stream: bool) -> str:
        with make(pool, url) as client:
            answer = client.chat.completions.create(model="m", messages=MESSAGES, stream=stream)
            if not stream:
                return str(answer.choices[0].message.content)
            return "".join([chunk.choices[0].delta.content or "" for chunk in answer if chunk.choices])

    return call


def _async_chat(make: Callable[[KeyPool, str], Any]) -> Callable[[KeyPool, str, bool], Coroutine[Any, Any, str]]:
    async def call(pool: KeyPool, url: str, stream: bool) -> str:
        async with make(pool, url) as client:
            answer = await client.chat.completions.create(model="m", messages=MESSAGES, stream=stream)
            if not stream:
                return str(answer.choices[0].message.content)
            return "".join([chunk.choices[0].delta.content or "" async for chunk in answer if chunk.choices])

    return call


def _responses(pool: KeyPool, url: str, stream: bool) -> str:
    with _openai(pool, url) as client:
        answer = client.responses.create(model="m", input="hi", stream=stream)
        if not stream:
            return str(answer.output_text)
        return "".join([event.delta for event in answer if event.type == "response.output_text.delta"])


async def _async_responses(pool: KeyPool, url: str, stream: bool) -> str:
    async with _async_openai(pool, url) as client:
        answer = await client.responses.create(model="m", input="hi", stream=stream)
        if not stream:
            return str(answer.output_text)
        return "".join([event.delta async for event in answer if event.type == "response.output_text.delta"])


def _anthropic(pool: KeyPool, url: str, stream: bool) -> str:
    import anthropic

    http = anthropic.DefaultHttpxClient(transport=pool.transport())
    with anthropic.Anthropic(base_url=url, api_key=pool.placeholder, http_client=http) as client:
        answer: Any = client.messages.create(model="m", max_tokens=99, messages=MESSAGES, stream=stream)
        if not stream:
            return str(answer.content[0].text)
        return "".join([event.delta.text for event in answer if event.type == "content_block_delta"])


async def _async_anthropic(pool: KeyPool, url: str, stream: bool) -> str:
    import anthropic

    http = anthropic.DefaultAsyncHttpxClient(transport=pool.async_transport())
    async with anthropic.AsyncAnthropic(base_url=url, api_key=pool.placeholder, http_client=http) as client:
        answer: Any = await client.messages.create(model="m", max_tokens=99, messages=MESSAGES, stream=stream)
        if not stream:
            return str(answer.content[0].text)
        return "".join([event.delta.text async for event in answer if event.type == "content_block_delta"])


def _mistral(pool: KeyPool, url: str, stream: bool) -> str:
    import httpx2
    from mistralai.client import Mistral

    with (
        httpx2.Client(transport=pool.transport()) as http,
        Mistral(api_key=pool.placeholder, server_url=url, client=http) as client,
    ):
        if not stream:
            return str(client.chat.complete(model="m", messages=MESSAGES).choices[0].message.content)
        answer = client.chat.stream(model="m", messages=MESSAGES)
        return "".join([str(event.data.choices[0].delta.content or "") for event in answer])


async def _async_mistral(pool: KeyPool, url: str, stream: bool) -> str:
    import httpx2
    from mistralai.client import Mistral

    async with (
        httpx2.AsyncClient(transport=pool.async_transport()) as http,
        Mistral(api_key=pool.placeholder, server_url=url, async_client=http) as client,
    ):
        if not stream:
            answer = await client.chat.complete_async(model="m", messages=MESSAGES)
            return str(answer.choices[0].message.content)
        events = await client.chat.stream_async(model="m", messages=MESSAGES)
        return "".join([str(event.data.choices[0].delta.content or "") async for event in events])


def _gemini_client(pool: KeyPool, url: str, http: dict[str, Any]) -> Any:
    from google import genai
    from google.genai import types

    return genai.Client(api_key=pool.placeholder, http_options=types.HttpOptions(base_url=url, **http))


def _gemini(pool: KeyPool, url: str, stream: bool) -> str:
    import httpx2

    with httpx2.Client(transport=pool.transport()) as http:
        models = _gemini_client(pool, url, {"httpx_client": http}).models
        if not stream:
            return str(models.generate_content(model="m", contents="hi").text)
        answer = models.generate_content_stream(model="m", contents="hi")
        return "".join([part.text or "" for part in answer])


async def _async_gemini(pool: KeyPool, url: str, stream: bool) -> str:
    import httpx2

    async with httpx2.AsyncClient(transport=pool.async_transport()) as http:
        models = _gemini_client(pool, url, {"httpx_async_client": http}).aio.models
        if not stream:
            return str((await models.generate_content(model="m", contents="hi")).text)
        answer = await models.generate_content_stream(model="m", contents="hi")
        return "".join([part.text or "" async for part in answer])


SDKS = {
    "openai": Sdk("openai", "openai", _chat(_openai), _async_chat(_async_openai), "RateLimitError"),
    "openai responses": Sdk("openai", "openai", _responses, _async_responses, "RateLimitError"),
    "azure": Sdk("openai", "azure", _chat(_azure), _async_chat(_async_azure), "RateLimitError"),
    "anthropic": Sdk("anthropic", "anthropic", _anthropic, _async_anthropic, "RateLimitError"),
    "mistral": Sdk("mistralai", "mistral", _mistral, _async_mistral, "SDKError"),
    "gemini": Sdk("google-genai", "gemini", _gemini, _async_gemini, "ClientError"),
}
