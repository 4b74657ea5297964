"""`python manage.py keyguard ...`: the commands of `keyguard`, on the store of the project's own stack."""

from __future__ import annotations

import argparse
import sys
from contextlib import redirect_stdout, suppress
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from keyguard.cli import main
from keyguard.django.configured import configured_stack
from keyguard.django.views import load_views
from keyguard.errors import ConfigurationError


class Command(BaseCommand):  # type: ignore[misc]  # Django ships no types
    """Run a command of `keyguard`."""

    help = "Run a command of keyguard on the store of settings.KEYGUARD, such as: keys issue --owner acme"
    requires_system_checks: tuple[str, ...] = ()  # a command has to work while something else is put right

    def add_arguments(self, parser: Any) -> None:
        parser.add_argument("words", nargs=argparse.REMAINDER, metavar="COMMAND", help="-h lists them")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            stack = configured_stack()
        except ConfigurationError as error:
            raise CommandError(str(error)) from None
        with suppress(Exception):  # what is wrong with them, the app says
            load_views()
        with redirect_stdout(options.get("stdout") or sys.stdout):
            code = main(options["words"] or ["--help"], app=stack, prog="manage.py keyguard")
        if code:
            raise SystemExit(code)
