"""The command `keyguard`."""

from keyguard.cli.command_line import main as main

__all__ = ["main"]
