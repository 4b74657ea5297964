"""The bodies and events of OpenAI's endpoint `responses`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keyguard.testing.provider.dialects.dialect import JSON, Asked, event


def response_body(asked: Asked, words: Sequence[str], status: str = "completed") -> JSON:
    """Return a response, whole or as it begins."""
    done = status == "completed"
    usage = {
        "input_tokens": asked.input_tokens,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": len(words),
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": asked.input_tokens + len(words),
    }
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_800_000_000,
        "status": status,
        "model": asked.model,
        "output": [_message(words, "completed")] if done else [],
        "usage": usage if done else None,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
    }


def response_events(asked: Asked, words: Sequence[str]) -> tuple[list[bytes], int]:
    """Return the events of a response, and how many of them come before its content."""
    place = {"output_index": 0, "content_index": 0, "item_id": "msg_1"}
    begun = response_body(asked, words, "in_progress")
    events: list[tuple[str, JSON]] = [
        ("response.created", {"response": begun}),
        ("response.in_progress", {"response": begun}),
        ("response.output_item.added", {"output_index": 0, "item": _message(None, "in_progress")}),
        ("response.content_part.added", {**place, "part": _part(())}),
    ]
    before = len(events)
    events += [
        ("response.output_text.delta", {**place, "delta": word if number == 0 else f" {word}", "logprobs": []})
        for number, word in enumerate(words)
    ]
    events += [
        ("response.output_text.done", {**place, "text": " ".join(words), "logprobs": []}),
        ("response.content_part.done", {**place, "part": _part(words)}),
        ("response.output_item.done", {"output_index": 0, "item": _message(words, "completed")}),
        ("response.completed", {"response": response_body(asked, words)}),
    ]
    numbered = enumerate(events)
    return [event({"type": name, "sequence_number": number, **told}, name) for number, (name, told) in numbered], before


def _message(words: Sequence[str] | None, status: str) -> dict[str, Any]:
    content = [] if words is None else [_part(words)]
    return {"id": "msg_1", "type": "message", "role": "assistant", "status": status, "content": content}


def _part(words: Sequence[str]) -> dict[str, Any]:
    return {"type": "output_text", "text": " ".join(words), "annotations": [], "logprobs": []}
