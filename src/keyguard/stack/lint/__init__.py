"""`Keyguard.check`: a stack compared with the routes of its app, and what is suspicious about it."""

from keyguard.stack.lint.app import Stack, check_app
from keyguard.stack.lint.findings import Finding, Findings, Severity, checked_severity, raise_from

__all__ = ["Finding", "Findings", "Severity", "Stack", "check_app", "checked_severity", "raise_from"]
