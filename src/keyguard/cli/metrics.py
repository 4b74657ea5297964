"""The command `keyguard metrics board`: a board for Grafana.

keyguard metrics board > keyguard.json
"""

from __future__ import annotations

import argparse
import json

from keyguard.cli.input import adding_to
from keyguard.metrics.board import board


def add_commands(parser: argparse.ArgumentParser) -> None:
    """Add the action of `keyguard metrics`."""
    adding_to(parser)("board", _board, "print a board for Grafana as JSON, to be imported there")


def _board(options: argparse.Namespace) -> int:
    print(json.dumps(board(), indent=2))
    return 0
