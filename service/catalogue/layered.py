"""Mappings that never change, of which a newer one costs what was changed and not what is there.

Most entries lie in a dict that newer mappings share; what came since lies in a small one of each. Once that has grown
the two are folded into one.
"""

from collections.abc import Iterator, Mapping
from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")
FOLDED_AT = 4096  # recent entries: a newer mapping copies as many


class Layered(Mapping[K, V]):
    """An immutable mapping to values other than None, in the order in which keys first came."""

    __slots__ = ("_before", "_changes", "_folded", "_recent", "_size")

    def __init__(
        self,
        folded: dict[K, V] | None = None,
        recent: dict[K, V | None] | None = None,
        size: int | None = None,
        step: tuple[dict[K, V | None], dict[K, V | None]] | None = None,
    ) -> None:
        """recent: goes before `folded`; None = gone. size: of both together; None = of `folded` alone.

        step: the recent entries before the newest changes, and those: who took each mapping in need not look at all of
        the next one.
        """
        self._folded, self._recent = folded or {}, recent or {}
        self._size = len(self._folded) if size is None else size
        self._before, self._changes = step or (self._recent, {})

    def after(self, changes: Mapping[K, V | None]) -> "Layered[K, V]":
        """The mapping with values set, and without the keys whose value is None."""
        more = sum((value is not None) - (self.find(key) is not None) for key, value in changes.items())
        recent, step = {**self._recent, **changes}, (self._recent, dict(changes))
        if len(recent) <= FOLDED_AT:
            return Layered(self._folded, recent, self._size + more, step)
        merged = {**self._folded, **{key: value for key, value in recent.items() if value is not None}}
        for key in [key for key, value in recent.items() if value is None]:
            merged.pop(key, None)
        return Layered(merged, None, self._size + more, step)

    def find(self, key: K) -> V | None:
        """The value of a key, or None; quicker than `get`."""
        return self._recent[key] if key in self._recent else self._folded.get(key)

    def changed_since(self, older: "Layered[K, V]") -> Iterator[K]:
        """The keys whose value is another than in a mapping that this one came from."""
        if older._recent is self._before:
            yield from (k for k, v in self._changes.items() if v is not None and older.find(k) is not v)
        elif older._folded is self._folded:
            # only what came since the two were folded can differ
            before = older._recent
            yield from (k for k, value in self._recent.items() if value is not None and before.get(k) is not value)
        else:
            yield from (key for key, value in self.items() if older.find(key) is not value)

    def __getitem__(self, key: K) -> V:
        if (value := self.find(key)) is None:
            raise KeyError(key)
        return value

    def __iter__(self) -> Iterator[K]:
        recent, folded = self._recent, self._folded
        yield from (key for key in folded if key not in recent or recent[key] is not None)
        yield from (key for key, value in recent.items() if value is not None and key not in folded)

    def __len__(self) -> int:
        return self._size
