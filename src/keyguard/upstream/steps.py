"""The steps that the flow of a request asks its driver to take, beside operations on the store and `flow.Wait`."""

from __future__ import annotations

from keyguard.flow import Step
from keyguard.upstream.answers import Answer
from keyguard.upstream.keys import Key


class Pause(Step[None]):
    """Wait for so many seconds."""

    __slots__ = ("seconds",)

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds


class Send(Step[Answer]):
    """Send a copy of the request with a key as its only credential, and evaluate to the head of the answer.

    A connection that fails is an answer with a `Fault`, and raises nothing.
    """

    __slots__ = ("key", "number")

    def __init__(self, key: Key, number: int) -> None:
        self.key = key
        self.number = number
        """How often it has been sent with this one, counted from 1."""


class ReadBody(Step[bytes]):
    """Read the body of an error, decoded, as far as `most` bytes. Its caller can read it all the same."""

    __slots__ = ("answer", "most")

    def __init__(self, answer: Answer, most: int = 65536) -> None:
        self.answer = answer
        self.most = most


class Discard(Step[None]):
    """Close an answer that nobody will see."""

    __slots__ = ("answer",)

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
