"""What gateways to a model have in common that real servers serve. KEYGUARD_STORE names the store."""

from __future__ import annotations

import json
import os

from keyguard import Keyguard, TokenBudget

guard = Keyguard(
    TokenBudget(
        "100000/day",
        by=lambda request: "all",
        name="tokens",
        on_disconnect=os.environ.get("LEAVING", "drain"),  # type: ignore[arg-type]
    ),
    store=os.environ["KEYGUARD_STORE"],
)
PIECES = 20
PIECE = b"data: %b\n\n" % json.dumps({"choices": [{"delta": {"content": "four" * 1000}}]}).encode()
USAGE = b"data: %b\n\n" % json.dumps({"choices": [], "usage": {"prompt_tokens": 9, "completion_tokens": 12}}).encode()
PAUSE = 0.05


def use() -> dict[str, int]:
    (found,) = guard.limits.peek("all", by="function")
    return {"spent": found.spent, "held": found.held}
