"""Some keys of a store: as many as a page can look at, however many there are."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from keyguard.errors import StoreError
from keyguard.keys.record import ENTRY, KeyRecord, decode, record_key
from keyguard.logs import logger, word
from keyguard.ops import Store, traits_of

log = logger("keyguard")
_CREATED = re.compile(rb'"created":(\d{1,20})')


@dataclass(frozen=True, slots=True)
class SomeKeys:
    """The records of some keys, as they are stored, the newest first."""

    stored: list[tuple[str, bytes]]
    whole: bool
    """Whether the store has no others."""

    def __iter__(self) -> Iterator[KeyRecord]:
        """Yield the records, each read when it is asked for. One that cannot be read is told of in the log."""
        for place, stored in self.stored:
            try:
                yield decode(stored)
            except StoreError as error:
                log.warning("%s: %s", error, word(place.removeprefix(record_key(""))))


def some_keys(store: Store, most: int) -> SomeKeys:
    """Return the records of so many keys at most. Raises `StoreError` if the store fails."""
    some, prefix = traits_of(store).some, record_key("")
    if some is None:
        pairs = list(store.scan(prefix))
        found, whole = pairs[:most], len(pairs) <= most
    else:
        listed, whole = some(prefix, most)
        found = list(listed)
    found = [pair for pair in found if not pair[0].startswith(ENTRY)]
    return SomeKeys(sorted(found, key=_age, reverse=True), whole)


def _age(pair: tuple[str, bytes]) -> tuple[int, str]:
    created = _CREATED.search(pair[1])
    return int(created[1]) if created is not None else 0, pair[0]
