"""Where stores keep what they are told, so that two objects, or two spellings of a URL, are known for one store."""

from __future__ import annotations

from keyguard.ops import Store, traits_of


class Itself:
    """The place of a store that is only itself, such as one in memory."""

    __slots__ = ("store",)

    def __init__(self, store: Store) -> None:
        self.store = store

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Itself) and self.store is other.store

    def __hash__(self) -> int:
        return id(self.store)


def place_of(store: Store) -> object:
    """Return where a store keeps what it is told: stores whose places are equal are one, however they were opened."""
    place = traits_of(store).place
    return Itself(store) if place is None else place


def one_host(name: object) -> str:
    """Return a host's name in one spelling."""
    text = str(name).lower().rstrip(".").strip("[]")
    return "localhost" if text in ("127.0.0.1", "::1") else text
