"""Who calls: what authentication found out, and where an app reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Identity:
    """The caller, as far as authentication knows it.

    `subject` owns quotas and outlives its keys: rotating a key changes `key_id` and nothing else. Where only one of the
    two is given it stands for both: nobody who is known is taken for an anonymous caller.
    """

    subject: str
    """Whom the key was issued to. Empty for an anonymous caller."""
    key_id: str = ""
    """The public id of the key, safe to log and to show. Empty for an anonymous caller."""
    plan: str | None = None
    scopes: frozenset[str] = frozenset()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What the issuer noted down with the key; JSON values."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "key_id", self.key_id or self.subject)
        object.__setattr__(self, "subject", self.subject or self.key_id)

    @property
    def anonymous(self) -> bool:
        """True where no key was needed and none was sent."""
        return not self.key_id


ANONYMOUS = Identity(subject="")
"""The caller of a public path, or of an app with `optional=True`, who sent no key."""
