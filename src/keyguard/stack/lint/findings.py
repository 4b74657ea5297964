"""The findings of `Keyguard.check`, and which of them raise."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from keyguard.errors import ConfigurationError

Severity: TypeAlias = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("note", "warning", "error")


@dataclass(frozen=True)
class Finding:
    """One thing that `Keyguard.check` has found."""

    severity: Severity
    """`"error"` for what cannot be meant, `"warning"` for what may leave something open, `"note"` for what is good to
    know."""
    rule: str
    """The kind of thing that it is: `"unprotected-route"`, `"matches-nothing"`, `"unreachable-limit"`,
    `"unreachable-policy"`, `"shared-counter"`, `"rule-at-route"` for limits and keys at routes that could not work, or
    `"unknown-routes"`."""
    subject: str
    """The guard or the route that it is about."""
    message: str
    """A sentence on what is so, and what would be right."""

    def __str__(self) -> str:
        return f"{self.severity:8} {self.rule:17} {self.subject}: {self.message}"


class Findings(tuple[Finding, ...]):
    """All that `Keyguard.check` has found, the most severe first. Its text has a line for each."""

    def __str__(self) -> str:
        return "\n".join(map(str, self)) or "nothing to report"


def raise_from(findings: Findings, severity: Severity | None) -> None:
    """Raise `ConfigurationError` if there is a finding of this severity, or a worse one."""
    if severity is None:
        return
    bad = [str(one) for one in findings if SEVERITIES.index(one.severity) >= SEVERITIES.index(severity)]
    if bad:
        raise ConfigurationError("the stack does not fit the app:\n" + "\n".join(bad))


def checked_severity(severity: object) -> None:
    """Raise `ConfigurationError` for what is not a severity."""
    if severity is not None and severity not in SEVERITIES:
        raise ConfigurationError(f"fail_on is 'error', 'warning', 'note' or None, not {severity!r}")
