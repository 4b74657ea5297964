"""The consequences of a failed transaction for those who travelled in it."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum, auto

import psycopg

from keyguard.errors import StoreBusy, StoreError
from keyguard.stores.postgres.names import words_of
from keyguard.stores.postgres.transaction import Asked, Transaction

NO_ANSWER = "PostgreSQL did not answer in time"
NO_TURN = "PostgreSQL: too much is asked for at once, or of one key"
NO_CONNECTION = "PostgreSQL: no connection in time"

_OF_ALL = ("08", "25", "28", "3D", "3F", "42", "53", "55", "57", "58", "XX")
"""Classes of errors that concern a database, and no single key: it only reads, is full, is being shut down."""

_Errors = psycopg.errors


class Way(Enum):
    """How they go on."""

    END = auto()
    """They are told the error."""
    AGAIN = auto()
    """Nothing has happened: they are decided again."""
    APART = auto()
    """One of them is the reason: each is decided by itself."""
    WAITING = auto()
    """The same, and waits for its keys: somebody writes one of them by hand."""


def way_on(transaction: Transaction, error: Exception, missing: str, *, others: bool) -> tuple[Way, Exception]:
    """Return how those who travelled in a transaction go on, and what they are told if that is the end.

    `others`: the server has answered others since it began, so it is in order. `missing`: the message if there are no
    tables.
    """
    slow = bool(transaction.held) or others
    way, told = Way.END, error
    if transaction.cut:
        told = StoreBusy(NO_TURN) if slow else StoreError(NO_ANSWER)
    elif transaction.unknown:
        told = store_error(error)
    elif lost(transaction, error):
        # One that was opened for them breaks on their account, maybe, or a server is there that breaks each.
        way, told = Way.END if transaction.line.fresh else Way.AGAIN, store_error(error)
    elif isinstance(error, (_Errors.SerializationFailure, _Errors.DeadlockDetected)):
        way, told = Way.AGAIN, store_error(error)
    elif isinstance(error, _Errors.LockNotAvailable) and transaction.writing and not transaction.held:
        way = Way.WAITING
    elif isinstance(error, (_Errors.LockNotAvailable, _Errors.QueryCanceled)) and slow:
        told = StoreBusy(NO_TURN)
    elif isinstance(error, _Errors.UndefinedTable):
        told = StoreError(missing)
    elif isinstance(error, psycopg.Error):
        whole = error.sqlstate is None or error.sqlstate[:2] in _OF_ALL
        way, told = Way.END if whole or len(transaction.asked) == 1 else Way.APART, store_error(error)
    return way, told


def lost(transaction: Transaction, error: Exception) -> bool:
    """Tell whether the connection is gone. A process that was too busy to go on has lost it too."""
    return transaction.line.connection.broken or isinstance(error, _Errors.IdleInTransactionSessionTimeout)


def store_error(error: BaseException) -> StoreError:
    """Return an error of psycopg as ours."""
    found = StoreError(f"PostgreSQL: {words_of(error)}")
    found.__cause__ = error
    return found


def fail_each(waiting: Iterable[Asked], error: Exception) -> None:
    """Tell each of those who wait why no answer comes."""
    for asked in waiting:
        own = error
        if isinstance(error, StoreError):  # whoever raises it writes its own traceback into it
            own = type(error)(*error.args)
            own.__cause__ = error.__cause__
        asked.fail(own)
