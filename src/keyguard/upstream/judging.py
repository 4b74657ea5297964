"""The judge of one profile, as the flow of a request asks it."""

from __future__ import annotations

from keyguard.upstream.answers import Fields
from keyguard.upstream.causes import Verdict
from keyguard.upstream.judge import fingerprint, judge, judge_event
from keyguard.upstream.profiles import Profile


class ByProfile:
    """Judges answers by what is known of their provider."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile

    def answer(self, status: int, headers: Fields, body: bytes, now: int, model: str) -> Verdict:
        """Judge an answer by its head, and if it is an error by its body."""
        return judge(self.profile, status, headers, body, now, model)

    def event(self, name: str, data: bytes, now: int) -> Verdict:
        """Judge an error that came as an event of a stream."""
        return judge_event(self.profile, name, data, now)

    def fingerprint(self, status: int, body: bytes) -> str:
        """Return what kind of answer this is, in codes alone."""
        return fingerprint(status, body)
