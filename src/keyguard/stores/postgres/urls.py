"""The settings in a PostgreSQL URL, in the words of libpq; and what it should say, if it cannot be read.

A URL may hold a password: nothing of it is shown.
"""

from __future__ import annotations

import re
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from keyguard.errors import ConfigurationError

_WRITE = "write postgresql://user:password@host:5432/db"
_DRIVER = re.compile(r"(postgres|postgresql)\+[a-z0-9_]+://", re.IGNORECASE)
_OTHERS = {
    "ssl": "sslmode=require",
    "sslrootcert_path": "sslrootcert=",
    "server_settings": "options=-c%20name%3Dvalue",
    "command_timeout": "timeout=",
    "pool_size": "max_connections=",
    "max_overflow": "max_connections=",
    "unix_socket": "host=/path",
    "prepared_statement_cache_size": "nothing, since no statement is prepared",
    "statement_cache_size": "nothing, since no statement is prepared",
    "prepare_threshold": "nothing, since no statement is prepared",
    "pgbouncer": "nothing, since poolers are welcome",
}
"""Options of other libraries, and what to write instead."""


def settings_of(url: str) -> dict[str, Any]:
    """Return the settings in a URL, those that keep a connection alive among them. Raise `ConfigurationError`."""
    url = _DRIVER.sub("postgresql://", url, count=1)  # as SQLAlchemy writes it
    scheme, found, rest = url.partition("://")
    if found and re.fullmatch(r"[A-Za-z0-9+.-]+", scheme):
        place, _, query = rest.partition("?")
        # libpq would end the password at the first of them, and look for the rest of it as a host, in its errors too.
        if re.split(r"[/?]", rest, maxsplit=1)[0].count("@") > 1 or "@" in place.partition("/")[2]:
            raise ConfigurationError(f"this URL of PostgreSQL cannot be read: an @ in a password is %40; {_WRITE}")
        for word in query.split("&"):
            name = word.partition("=")[0]
            if name in _OTHERS:
                raise ConfigurationError(f"postgresql:// has no option {name}: write {_OTHERS[name]}")
    try:
        settings: dict[str, Any] = conninfo_to_dict(url)
        for port in filter(None, str(settings.get("port", "")).split(",")):
            int(port)  # libpq would say so only at the first request
    except (psycopg.Error, ValueError):
        # Its words are not shown: they may hold the password.
        problem = True
    else:
        problem = False
    if problem:
        raise ConfigurationError(f"not a PostgreSQL URL: {_WRITE}")
    return {
        "application_name": "keyguard",
        # A firewall forgets what has been silent for long, and tells nobody.
        "keepalives": 1,
        "keepalives_idle": 30,
        "keepalives_interval": 5,
        "keepalives_count": 3,
        "tcp_user_timeout": 5000,
        **settings,
    }
