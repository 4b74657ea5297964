"""Bodies under ASGI that go through filters."""

from __future__ import annotations

from collections.abc import Sequence

from keyguard.drivers.asgi.messages import Message
from keyguard.drivers.bodies import passed
from keyguard.response import BodyFilter


def filtered(filters: Sequence[BodyFilter], message: Message) -> Message | None:
    """Return the message with what filters leave of its part of the body; `None` if nothing of it goes on."""
    part, last = message.get("body", b""), not message.get("more_body", False)
    left = passed(filters, part, last=last)
    if left is part:
        return message
    return {**message, "body": left} if left or last else None
