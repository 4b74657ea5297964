"""The settings of `APIKeys`: each is checked at the start, and an error says what would be right."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from keyguard.errors import ConfigurationError
from keyguard.flow import check_takes
from keyguard.http.addresses import Networks
from keyguard.keys import Peppers
from keyguard.keys.imported import Imported
from keyguard.units import microseconds


def listed(word: str, texts: Any) -> list[Any]:
    if isinstance(texts, bytes) or not isinstance(texts, Iterable):
        raise ConfigurationError(f"{word} is a list of texts, not {texts!r}")
    return [texts] if isinstance(texts, str) else list(texts)


def checked_scopes(scopes: Any) -> frozenset[str]:
    if isinstance(scopes, str):
        scopes = scopes.split()
    names = list(scopes)
    for name in names:
        if (
            not isinstance(name, str)
            or not name
            or not name.isascii()
            or not name.isprintable()
            or set(name) & set(' "\\')
        ):
            raise ConfigurationError(f"a scope is printable ASCII text without blanks or quotes, not {name!r}")
    return frozenset(names)


def switch(word: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ConfigurationError(f"{word} is True or False, not {value!r}")
    return value


def checked_lookup(lookup: Any) -> Any:
    if lookup is None:
        return None
    if not callable(lookup):
        raise ConfigurationError(f"lookup is a function from key text to Identity or None, not {lookup!r}")
    check_takes("lookup", lookup, "the text of a key")
    return lookup


def checked_issued(issued: Any, lookup: Any, imported: bool) -> bool:
    if issued is None:
        return lookup is None or imported
    if not switch("issued", issued) and (imported or lookup is None):
        what = "imported keys are of the registry, as issued ones are" if imported else "there is no lookup"
        raise ConfigurationError(f"issued=False would accept nobody: {what}")
    return bool(issued)


def imported_keys(imported: bool, peppers: Peppers, hmac_secret: Any) -> Imported | None:
    if imported:
        return Imported(peppers, hmac_secret)
    if hmac_secret is not None:
        raise ConfigurationError("hmac_secret is what imported keys were hashed with: set imported=True, too")
    return None


def needed_scopes(scopes: Any) -> Any:
    if scopes is None:
        return None
    if callable(scopes):
        check_takes("scopes", scopes, "the request")
        return scopes
    return checked_scopes(listed("scopes", scopes))


def checked_preflights(preflights: Any) -> bool | None:
    if preflights is not None and not isinstance(preflights, bool):
        raise ConfigurationError(f"preflights is True or False, or None for what can be seen, not {preflights!r}")
    return preflights


def checked_name(name: Any) -> str:
    if isinstance(name, str) and name and name.isascii() and name.isprintable() and "|" not in name:
        return name
    raise ConfigurationError(f"a name is printable ASCII text without '|', not {name!r}")


def checked_realm(realm: Any) -> str:
    if isinstance(realm, str) and realm.isascii() and realm.isprintable() and not set(realm) & {'"', "\\"}:
        return realm
    raise ConfigurationError(f"realm is printable ASCII text without quotes, not {realm!r}")


def checked_networks(word: str, networks: Any) -> Networks:
    try:
        return Networks([networks] if isinstance(networks, str) else networks)
    except ConfigurationError as error:
        raise ConfigurationError(f"{word}: {error}") from None


def stale_for(if_store_fails: Any, stale_if_error: Any) -> int:
    """Return for how many microseconds after its verification a key is accepted without the store."""
    if if_store_fails not in ("local", "refuse"):
        raise ConfigurationError(
            f"if_store_fails is 'local' or 'refuse', not {if_store_fails!r}: nobody is let in unknown"
        )
    stale = microseconds("stale_if_error", stale_if_error, max="1 day")
    return stale if if_store_fails == "local" else 0
