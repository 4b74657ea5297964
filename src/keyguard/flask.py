"""For Flask: `flask keyguard ...` does what the command `keyguard` does, with the app's own stack and its store.

    flask keyguard keys issue --owner acme
    flask keyguard limits show acme

Flask finds it by itself, among the entry points `flask.commands`. In tests it is
`app.test_cli_runner().invoke(keyguard.flask.command, ["keys", "list"])`.
"""

from __future__ import annotations

import click
from flask import current_app
from flask.cli import with_appcontext

from keyguard.cli import main
from keyguard.stack.keyguard import Keyguard

__all__ = ["command"]


@click.command(
    "keyguard",
    help="Keys, limits, bans and more of this app: flask keyguard --help.",
    add_help_option=False,  # the words are read by the command itself
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
@click.argument("words", nargs=-1, type=click.UNPROCESSED)
@with_appcontext
def command(words: tuple[str, ...]) -> None:
    """Run a command of `keyguard` with the stack of the app, which `Keyguard.init_app` has put around it."""
    guard = current_app.extensions.get("keyguard")
    if not isinstance(guard, Keyguard):
        raise click.ClickException("no Keyguard stands around this app: call guard.init_app(app)")
    click.get_current_context().exit(main(words, app=guard, prog="flask keyguard"))
