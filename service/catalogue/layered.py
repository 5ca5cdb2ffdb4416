"""Mappings that never change, of which a newer one costs what was changed and not what is there.

Entries lie in three dicts, which newer mappings share: most in the oldest, what came since in a smaller one, the newest
in one that is copied by each change. Where a dict has grown, it goes into the next older one: a copy of a hundred
thousand entries holds the interpreter's lock for some milliseconds, once in sixteen thousand changes.
"""

from collections.abc import Iterator, Mapping
from itertools import chain
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")
RECENT, MIDDLE = 512, 16_384  # entries of the two newer dicts, beyond which they go into an older one


class Layered(Mapping[K, V]):
    """An immutable mapping to values other than None, in the order in which keys first came."""

    __slots__ = ("_before", "_changes", "_layers", "_size")

    def __init__(
        self,
        layers: tuple[dict[K, V | None], ...] = (),
        size: int = 0,
        before: tuple[dict[K, V | None], ...] = (),
        changes: Mapping[K, V | None] | None = None,
    ) -> None:
        """layers: three, the oldest first, or none; a newer one goes before, and None in it is gone. size: of all.

        before: the layers before the newest changes: who took each mapping in need not look at all of the next one.
        """
        self._layers, self._size = layers or ({}, {}, {}), size
        self._before, self._changes = before, changes or {}

    def after(self, changes: Mapping[K, V | None]) -> "Layered[K, V]":
        """The mapping with values set, and without the keys whose value is None."""
        oldest, middle, newest = self._layers
        more = sum((value is not None) - (self.find(key) is not None) for key, value in changes.items())
        newest = {**newest, **changes}
        if len(newest) > RECENT:
            middle, newest = {**middle, **newest}, {}
        if len(middle) > MIDDLE:
            oldest = {**oldest, **middle}
            for key in [key for key, value in middle.items() if value is None]:
                del oldest[key]
            middle = {}
        return Layered((oldest, middle, newest), self._size + more, self._layers, dict(changes))

    def find(self, key: K) -> V | None:
        """The value of a key, or None; quicker than `get`."""
        oldest, middle, newest = self._layers
        return newest[key] if key in newest else middle[key] if key in middle else oldest.get(key)

    def changed_since(self, older: "Layered[K, V]") -> Iterator[K]:
        """The keys whose value is another than in a mapping that this one came from."""
        for key in self._touched_since(older._layers):
            if (value := self.find(key)) is not None and older.find(key) is not value:
                yield key

    def _touched_since(self, layers: tuple[dict[K, V | None], ...]) -> "Mapping[K, V | None] | Iterator[K]":
        """Keys with all those that were set since, each once."""
        oldest, middle, newest = self._layers
        if layers is self._before:
            return self._changes
        if layers[0] is not oldest:
            return iter(self)
        return newest if layers[1] is middle else iter(dict.fromkeys(chain(middle, newest)))

    def __getitem__(self, key: K) -> V:
        if (value := self.find(key)) is None:
            raise KeyError(key)
        return value

    def __iter__(self) -> Iterator[K]:
        oldest, middle, newest = self._layers
        keys = chain(
            oldest,
            (key for key in middle if key not in oldest),
            (key for key in newest if key not in middle and key not in oldest),
        )
        return (key for key in keys if self.find(key) is not None)

    def __len__(self) -> int:
        return self._size
