"""Identities: the caller as authentication found it, and how an app reads it.

One `Identity` serves all requests of a key, so it cannot be changed, however deep.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn


@dataclass(frozen=True, slots=True)
class Identity:
    """The caller, as far as authentication knows it.

    `subject` owns quotas and outlives its keys: rotating a key changes `key_id` and nothing else. If only one of the
    two is given, it stands for both: a known caller is never taken for an anonymous one.
    """

    subject: str
    """The holder of the key. Empty for an anonymous caller."""
    key_id: str = ""
    """The public id of the key, safe to log and to show. Empty for an anonymous caller."""
    plan: str | None = None
    scopes: frozenset[str] = frozenset()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Notes of the issuer with the key; JSON values. Read-only, with the dicts and lists in it; a copy of it, or
    of one in it, can be changed."""

    if TYPE_CHECKING:  # what may be given is more than what is kept

        def __init__(
            self,
            subject: str,
            key_id: str = "",
            plan: str | None = None,
            scopes: Iterable[str] = frozenset(),
            metadata: Mapping[str, Any] = ...,
        ) -> None: ...

    def __post_init__(self) -> None:
        object.__setattr__(self, "key_id", self.key_id or self.subject)
        object.__setattr__(self, "subject", self.subject or self.key_id)
        scopes: Iterable[str] = self.scopes or ()
        object.__setattr__(self, "scopes", frozenset(scopes.split() if isinstance(scopes, str) else scopes))
        object.__setattr__(self, "metadata", _frozen(self.metadata or {}))

    @property
    def anonymous(self) -> bool:
        """Whether no key was needed and none was sent."""
        return not self.key_id


# -- values that cannot be changed ------------------------------------------------------------------------------

# Dicts and lists, and not a `MappingProxyType` and tuples: JSON can be made of them, and they equal what they were.


def _refuse(self: object, *args: object, **kwargs: object) -> NoReturn:
    raise TypeError("what stands in an identity's metadata cannot be changed: all requests share it; copy it")


class _Dict(dict[str, Any]):
    __slots__ = ()

    __setitem__ = __delitem__ = __ior__ = clear = pop = popitem = setdefault = update = _refuse

    def __copy__(self) -> dict[str, Any]:
        return dict(self)

    copy = __copy__

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        return {key: _thawed(value) for key, value in self.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (_thawed(self),)


class _List(list[Any]):
    __slots__ = ()

    __setitem__ = __delitem__ = __iadd__ = __imul__ = _refuse
    append = clear = extend = insert = pop = remove = reverse = sort = _refuse

    def __copy__(self) -> list[Any]:
        return list(self)

    copy = __copy__

    def __deepcopy__(self, memo: dict[int, Any]) -> list[Any]:
        return [_thawed(value) for value in self]

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (_thawed(self),)


def _frozen(value: Any) -> Any:
    """Return a copy that cannot be changed. A value of another kind than dict, list, tuple or set stays as it is."""
    if isinstance(value, (_Dict, _List)):
        return value
    if isinstance(value, Mapping):
        return _Dict({key: _frozen(one) for key, one in value.items()})
    if isinstance(value, list):
        return _List([_frozen(one) for one in value])
    if type(value) is tuple:
        return tuple([_frozen(one) for one in value])
    if isinstance(value, set):
        return frozenset(value)
    return bytes(value) if isinstance(value, bytearray) else value


def _thawed(value: Any) -> Any:
    """Return a copy that can be changed."""
    if isinstance(value, dict):
        return {key: _thawed(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_thawed(one) for one in value]
    return tuple([_thawed(one) for one in value]) if type(value) is tuple else value


UNKNOWN = (
    "no APIKeys stands outside it, as far as it can see: put APIKeys() first in the stack, or in a layer further out. "
    "A bridge between ASGI and WSGI that runs the app in another context hides what is outside of it: put APIKeys() "
    "on this side then"
)
"""A developer is told this whose guard needs the caller's identity, and has none."""

ANONYMOUS = Identity(subject="")
"""The caller of a public path, or of an app with `optional=True`, if no key was sent."""
