"""What the audit log says of a purge. A query is not told: it may hold a key."""

from __future__ import annotations

from keyguard.audit import checked_actor, new_record, note

EVERYTHING = "everything"


def check_actor(actor: str | None) -> None:
    """Raise `ValueError` for an actor that is not a name."""
    if actor is not None:
        checked_actor(actor)


def told(url: str | None, tag: str | None) -> str:
    """Return what is purged, as the log tells it."""
    if url is None:
        return f"the tag {tag}"
    place, query, _ = url.partition("?")
    host, at, rest = place.rpartition("@")  # before it a password may stand
    return (f"{host.partition('://')[0]}://{rest}" if at and "://" in host else place) + ("?..." if query else "")


async def purge_noted(what: str, now: int, actor: str) -> None:
    """Note that somebody has purged something: a flow."""
    await note(new_record(now, actor=actor, action="cache.purge", after={"purged": what}))
