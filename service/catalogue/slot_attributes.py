"""The attributes of the items that were put, in chunks: a full one never changes, whatever comes behind it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from model.attributes.columns import Column, Value
from model.attributes.filters import Filter
from model.attributes.table import Attributes, ItemValues
from model.catalogue import Catalogue
from service.catalogue.state import CatalogueState, Flags

CHUNK = 4096  # slots


@dataclass(frozen=True, eq=False)
class SlotAttributes:
    """The attributes of slots 0 .. M - 1."""

    chunks: tuple[Attributes, ...]  # of CHUNK slots each, the last of fewer

    def allowed(self, parsed: Filter) -> Flags:
        """(M,) true for slots that pass a filter."""
        return np.concatenate([parsed.allowed(chunk) for chunk in self.chunks])

    def of_slot(self, attribute: str, slot: int) -> list[Value]:
        """The values of one slot, none where it has none."""
        column, row = self._place(attribute, slot)
        return [column.values[code - 1] for code in column.of_row(row).tolist()]

    def numbers(self, attribute: str, slots: NDArray[np.int64]) -> NDArray[np.float64]:
        """(K,) the numbers of a comparable attribute; NaN where a slot has none."""
        places = [self._place(attribute, slot) for slot in slots.tolist()]
        values = [float(column.numbers[row - 1]) if column.known[row - 1] else np.nan for column, row in places]
        return np.array(values, dtype=np.float64)

    def _place(self, attribute: str, slot: int) -> tuple[Column, int]:
        """The column that a slot is in, and its row there."""
        return self.chunks[slot // CHUNK].column(attribute), slot % CHUNK + 1


class SlotChunks:
    """Makes the attributes of the slots of one catalogue; keeps full chunks. Thread-safe."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue, self._full, self._lock = catalogue, list[Attributes](), Lock()

    def of(self, state: CatalogueState) -> SlotAttributes | None:
        """None where the catalogue has no attributes."""
        if (main := self._catalogue.attributes) is None:
            return None
        num_slots = len(state.slots)
        with self._lock:
            for number in range(len(self._full), num_slots // CHUNK):
                self._full.append(self._chunk(main, state, range(number * CHUNK, (number + 1) * CHUNK)))
            full = self._full[: num_slots // CHUNK]
        rest = range(len(full) * CHUNK, num_slots)
        return SlotAttributes((*full, *([self._chunk(main, state, rest)] if rest else ())))

    def _chunk(self, main: Attributes, state: CatalogueState, numbers: Sequence[int]) -> Attributes:
        """The slots' own attributes, else the bundle's where it knows the item."""
        slots = [state.slots[number] for number in numbers]
        items: list[ItemValues] = [slot.attributes or {} for slot in slots]
        silent = (place for place, slot in enumerate(slots) if slot.attributes is None)
        known: Mapping[int, int] = {p: row for p in silent if (row := self._catalogue.items.row(slots[p].id))}
        for place, own in zip(known, main.items([*known.values()]), strict=True):
            items[place] = own
        return Attributes.of_items(main.types, items)
