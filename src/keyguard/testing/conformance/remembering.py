"""Random operations on the latest lines of something."""

from __future__ import annotations

import random
from typing import Any

from keyguard.clock import SECOND
from keyguard.ops import Op
from keyguard.ops.remembering import Remember
from keyguard.testing.conformance.upstream import UpstreamSteps

_LINES = (b"one", b"two", b"three", b"{}", b"\xff\0", b"", b"two\nlines")


class RememberSteps(UpstreamSteps):
    """Draws what is to be remembered."""

    random: random.Random

    def remember(self) -> Op[Any]:
        lines = self.random.choices(_LINES, k=self.random.randint(0, 3))
        return Remember("recent:1|7", lines, self.random.randint(1, 4), self.random.randrange(1, 20 * SECOND))
