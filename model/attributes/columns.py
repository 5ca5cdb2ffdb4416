"""One attribute of all items in memory: codes of its different values, and numbers to compare.

Polars is imported where attributes are there: a service without them does without it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from sys import float_info
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import polars as pl

Value = bool | int | float | str
Flags = NDArray[np.bool_]


class Kind(StrEnum):
    """The kinds of values."""

    INTEGER = "integers"
    NUMBER = "numbers"
    FLAG = "true or false"
    TEXT = "text"


POLARS = {Kind.INTEGER: "Int64", Kind.NUMBER: "Float64", Kind.FLAG: "Boolean", Kind.TEXT: "String"}
PYTHON: dict[Kind, tuple[type, ...]] = {
    Kind.INTEGER: (int,),
    Kind.NUMBER: (int, float),
    Kind.FLAG: (bool,),
    Kind.TEXT: (str,),
}


@dataclass(frozen=True, slots=True)
class ColumnType:
    """The type of an attribute: of one value an item, or of a list of values."""

    kind: Kind
    is_list: bool = False

    @classmethod
    def of(cls, dtype: "pl.DataType") -> "ColumnType | None":
        """The type of a column of a table; None where no attribute can be of it."""
        known = (cls(kind, is_list) for kind in Kind for is_list in (False, True))
        return next((own for own in known if own.is_usable and own.dtype == dtype), None)

    @property
    def is_usable(self) -> bool:
        return not self.is_list or self.kind in (Kind.INTEGER, Kind.TEXT)

    @property
    def dtype(self) -> "pl.DataType":
        import polars as pl  # noqa: PLC0415

        inner: pl.DataType = getattr(pl, POLARS[self.kind])()
        return pl.List(inner) if self.is_list else inner

    @property
    def is_comparable(self) -> bool:
        """True when its values have an order that a range can be asked of."""
        return self.kind in (Kind.INTEGER, Kind.NUMBER) and not self.is_list

    def takes(self, value: object) -> bool:
        """Tells if a value is one of this attribute's; for lists, one member."""
        # the very type: to isinstance true is an integer, and would pass for 1
        return type(value) in PYTHON[self.kind]

    def keeps(self, value: object) -> bool:
        """Tells if a value that it takes is none that 64 bits cannot hold."""
        if self.kind is Kind.INTEGER:
            return isinstance(value, int) and -(2**63) <= value < 2**63
        return self.kind is not Kind.NUMBER or is_finite(value)

    def __str__(self) -> str:
        return f"lists of {self.kind}" if self.is_list else str(self.kind)


class Column:
    """The values of one attribute for rows 1..N. Codes are made when they are first asked for."""

    def __init__(self, series: "pl.Series", column_type: ColumnType) -> None:
        self.type, self._series = column_type, series

    def __len__(self) -> int:
        return len(self._series)

    @cached_property
    def values(self) -> list[Value]:
        """The different values, in rising order: value number 0 has the code 1."""
        return self._flat.drop_nulls().unique().sort().to_list()

    @cached_property
    def codes(self) -> NDArray[np.int32]:
        """Codes of the values, 0 where there is none: (N,), or of all lists one after the other."""
        flat = self._flat
        if self.type.kind is Kind.TEXT:
            import polars as pl  # noqa: PLC0415

            # Polars numbers text by an Enum of all values: a search in NumPy would make a Python object of each
            numbers = flat.cast(pl.Enum(pl.Series(self.values, dtype=pl.String))).to_physical().cast(pl.Int64) + 1
            return numbers.fill_null(0).to_numpy().astype(np.int32)
        filled = flat.fill_null(False if self.type.kind is Kind.FLAG else 0).to_numpy()
        # what is missing was filled with some value: it has a code for a moment, and 0 below
        codes = np.searchsorted(np.array(self.values, dtype=filled.dtype), filled).astype(np.int32) + 1
        return np.where(flat.is_null().to_numpy(), 0, codes).astype(np.int32)

    @cached_property
    def numbers(self) -> NDArray[np.int64] | NDArray[np.float64]:
        """(N,) the values of a comparable attribute, 0 where there is none."""
        return self._series.fill_null(0).to_numpy()

    @cached_property
    def known(self) -> Flags:
        """(N,) true where an item has a value."""
        if self.type.is_list:
            return np.diff(self._offsets) > 0
        return self._series.is_not_null().to_numpy()

    def any_of(self, wanted: Iterable[Value]) -> Flags:
        """(N,) true where an item has one of the values."""
        # place 0 stays false: it is the code of what is missing
        marks = np.zeros(len(self.values) + 1, dtype=np.bool_)
        marks[[self._codes_of[value] for value in wanted if value in self._codes_of]] = True
        hits = marks[self.codes]
        if not self.type.is_list:
            return hits
        # a list has one of the values where the count of hits grows between its ends
        ends = np.append(0, np.cumsum(hits))
        return ends[self._offsets[1:]] > ends[self._offsets[:-1]]

    def of_row(self, row: int) -> NDArray[np.int32]:
        """The codes of one row, none where it has no value."""
        if self.type.is_list:
            return self.codes[self._offsets[row - 1] : self._offsets[row]]
        own = self.codes[row - 1 : row]
        return own[own > 0]

    def code(self, value: Value) -> int:
        """The code of a value; 0 where no item has it."""
        return self._codes_of.get(value, 0)

    @cached_property
    def _codes_of(self) -> dict[Value, int]:
        return {value: code for code, value in enumerate(self.values, start=1)}

    @cached_property
    def _flat(self) -> "pl.Series":
        """The values one after the other, without empty lists and what lists hold of nothing."""
        if not self.type.is_list:
            return self._series
        return self._series.explode().drop_nulls()

    @cached_property
    def _offsets(self) -> NDArray[np.int64]:
        """(N + 1,) where each row's list begins in `codes`."""
        lengths = self._series.list.drop_nulls().list.len().fill_null(0).to_numpy().astype(np.int64)
        return np.append(0, np.cumsum(lengths))


def is_finite(value: object) -> bool:
    """True of a number that 64 bits can tell from infinity; `math.isfinite` raises for an integer that is longer."""
    return isinstance(value, int | float) and abs(value) <= float_info.max
