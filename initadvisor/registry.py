"""Named things of one kind: added once, found by name, listed in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from initadvisor.errors import RegistryError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """What a plug point holds (initializers, rules, data-driven steps, checks).

    Example:
        >>> words = Registry[str]("word", lambda word: (word, word.upper()))
        >>> words.add("orthogonal")
        'orthogonal'
        >>> words.get("ORTHOGONAL"), list(words)
        ('orthogonal', ['orthogonal'])
        >>> words.get("orthogonl")
        Traceback (most recent call last):
        initadvisor.errors.RegistryError: unknown word "orthogonl"; did you mean "orthogonal"?
    """

    def __init__(self, what: str, names: Callable[[T], tuple[str, ...]]) -> None:
        """An empty registry.

        Args:
            what: an entry is called in messages, such as ``"initializer"``.
            names: of an entry, the one it is listed by first, then its aliases.
        """
        self._what = what
        self._names = names
        self._entries: dict[str, T] = {}
        self._first: dict[str, str] = {}

    def add(self, entry: T) -> T:
        """Add an entry and return it.

        Raises:
            RegistryError: one of its names is taken.
        """
        names = self._names(entry)
        taken = [name for name in names if name in self._first]
        if taken:
            raise RegistryError(f'{self._what} "{taken[0]}" is registered twice')
        self._entries[names[0]] = entry
        self._first.update(dict.fromkeys(names, names[0]))
        return entry

    def get(self, name: str) -> T:
        """The entry of this name or alias.

        Raises:
            RegistryError: there is none; the nearest name is in the message.
        """
        if name not in self._first:
            raise RegistryError(f'unknown {self._what} "{name}"; {nearest(name, self._first)}')
        return self._entries[self._first[name]]

    def __contains__(self, name: object) -> bool:
        return name in self._first

    def __iter__(self) -> Iterator[T]:
        """All entries, by name."""
        return iter([self._entries[name] for name in sorted(self._entries)])
