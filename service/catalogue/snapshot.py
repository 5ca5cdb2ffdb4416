"""A bundle's items with all changes so far, frozen: what one batch is searched, filled and named by."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.base import ItemIndex
from model.attributes.filters import parse_filter
from model.attributes.table import Attributes, BadAttribute
from model.catalogue import Catalogue, ExternalId
from service.catalogue.folded import SlotTable
from service.catalogue.slot_attributes import SlotAttributes, SlotChunks
from service.catalogue.state import CatalogueState, Flags

MAX_FLAGS = 64  # filters whose slots a snapshot remembers
NO_ATTRIBUTES = "the bundle has no attributes of items; give `recall prepare` a table of them with --items"


@dataclass(frozen=True, eq=False)
class MainRows:
    """The rows of the bundle that are dead: many in a mask that changes seldom, the newest one by one."""

    alive: Flags | None  # (N,); None = all
    recent: tuple[int, ...]  # dead too, though the mask has them alive


@dataclass(frozen=True, eq=False)
class ItemSnapshot:
    """Rows 1..N are the bundle's, N + 1 .. N + M those of the slots."""

    catalogue: Catalogue
    state: CatalogueState
    main: MainRows
    chunks: SlotChunks
    table: SlotTable[ItemIndex] | None = None  # of the slots, where an engine searches

    @property
    def number(self) -> int:
        return self.state.number

    @property
    def num_main(self) -> int:
        return len(self.catalogue.items)

    @property
    def num_slots(self) -> int:
        return len(self.state.slots)

    @property
    def num_rows(self) -> int:
        return self.num_main + self.num_slots

    @property
    def is_changed(self) -> bool:
        """True when lists may differ from those of the bundle alone."""
        return bool(self.num_slots or self.main.recent or self.main.alive is not None)

    @property
    def alive_slots(self) -> Flags:
        """(M,) true for the slots that may be listed."""
        return self.state.alive

    @cached_property
    def slot_attributes(self) -> SlotAttributes | None:
        """The attributes of the slots: their own, else the bundle's where it knows the item."""
        return self.chunks.of(self.state)

    def slot_flags(self, text: str | None) -> Flags:
        """(M,) true for the slots that are alive and pass a filter."""
        return self.alive_slots if text is None or not self.num_slots else self._flags_of(text)

    @cached_property
    def _flags_of(self) -> "Callable[[str], Flags]":
        # each search of a filter asks again, and a snapshot lives for as long as nothing comes
        alive, own = self.alive_slots, self._own_attributes  # not itself, which would be freed by the collector alone
        return lru_cache(MAX_FLAGS)(lambda text: alive & own.allowed(parse_filter(text)))

    @property
    def _own_attributes(self) -> SlotAttributes:
        """Raises BadAttribute where the bundle has none."""
        if self.slot_attributes is None:
            raise BadAttribute(NO_ATTRIBUTES)
        return self.slot_attributes

    def is_alive(self, row: int) -> bool:
        """Tells if a row may be listed."""
        if row > self.num_main:
            return bool(self.alive_slots[row - self.num_main - 1])
        return row not in self.main.recent and (self.main.alive is None or bool(self.main.alive[row - 1]))

    def rows_of(self, ids: Iterable[ExternalId]) -> tuple[int, ...]:
        """All rows of known ids, those of slots behind those of the bundle."""
        ids = tuple(ids)
        return self.catalogue.items.rows(ids) + self.slot_rows_of(ids)

    def slot_rows_of(self, ids: Iterable[ExternalId]) -> tuple[int, ...]:
        """The rows of slots of known ids, in either of their forms."""
        if not (current := self.state.current):
            return ()
        slots = map(current.find, map(self.catalogue.items.own_form, ids))
        return tuple(self.num_main + 1 + slot for slot in slots if slot is not None)

    def column(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """(K,) external ids of rows that are known to be inside."""
        inside = rows <= self.num_main
        if inside.all():
            return self.catalogue.items.column(rows)
        ids = np.empty(len(rows), dtype=self.catalogue.items.ids.dtype)
        ids[inside] = self.catalogue.items.column(rows[inside])
        ids[~inside] = [self.state.slots[row - self.num_main - 1].id for row in rows[~inside].tolist()]
        return ids

    def groups(self, attribute: str, rows: Sequence[int]) -> list[tuple[object, ...]]:
        """The values of an attribute of each row, as keys: equal where the values are."""
        column = required(self.catalogue.attributes).column(attribute)
        keys: list[tuple[object, ...]] = []
        for row in rows:
            if row <= self.num_main:
                keys.append(tuple(column.of_row(row).tolist()))
            else:
                values = self._own_attributes.of_slot(attribute, row - self.num_main - 1)
                keys.append(tuple(column.code(value) or (value,) for value in values))
        return keys

    def numbers(self, attribute: str, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """(K,) the numbers of a comparable attribute; NaN where a row has none."""
        column, values = required(self.catalogue.attributes).column(attribute), np.full(len(rows), np.nan)
        inside = (rows > 0) & (rows <= self.num_main)
        own = rows[inside] - 1
        values[inside] = np.where(column.known[own], column.numbers[own], np.nan)
        behind = rows > self.num_main
        if behind.any():
            values[behind] = self._own_attributes.numbers(attribute, rows[behind] - self.num_main - 1)
        return values


def required(attributes: Attributes | None) -> Attributes:
    """Raises BadAttribute where a bundle has none."""
    if attributes is None:
        raise BadAttribute(NO_ATTRIBUTES)
    return attributes
