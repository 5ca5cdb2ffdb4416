"""The attributes of a catalogue's items: a typed table of rows 1..N, a Parquet file beside the ids."""

import re
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from model.attributes.columns import Column, ColumnType, Value

if TYPE_CHECKING:
    import polars as pl

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
RESERVED = frozenset({"and", "or", "not", "item"})
MAX_ATTRIBUTES = 64
MAX_VALUES = 64  # of a list that a new item brings
ItemValues = Mapping[str, Value | Sequence[Value]]


class BadAttribute(ValueError):  # noqa: N818 - named for what it is
    """An attribute that cannot be used; one sentence that says why."""


class Attributes:
    """The attributes of rows 1..N. Never changed."""

    def __init__(self, frame: "pl.DataFrame") -> None:
        """frame: one row an item, a column an attribute. Raises BadAttribute for a name or type without a place."""
        self.frame = frame
        self.types = {name: _type_of(name, dtype) for name, dtype in frame.schema.items()}
        if len(self.types) > MAX_ATTRIBUTES:
            raise BadAttribute(f"{len(self.types)} attributes; there may be {MAX_ATTRIBUTES}")
        self._columns = {name: Column(frame[name], column_type) for name, column_type in self.types.items()}

    @classmethod
    def of_items(cls, types: Mapping[str, ColumnType], items: Sequence[ItemValues]) -> "Attributes":
        """The attributes of single items, in order; those that an item does not have are missing."""
        import polars as pl  # noqa: PLC0415

        schema = {name: column_type.dtype for name, column_type in types.items()}
        columns = {
            # not strict: integers are taken for numbers, as `takes` allows
            name: pl.Series(name, [item.get(name) for item in items], dtype=dtype, strict=False)
            for name, dtype in schema.items()
        }
        return cls(pl.DataFrame(columns, schema=schema))

    @classmethod
    def load(cls, path: Path) -> "Attributes":
        """Raises ValueError when the file is no Parquet table of attributes."""
        import polars as pl  # noqa: PLC0415

        try:
            return cls(pl.read_parquet(BytesIO(path.read_bytes())))
        except pl.exceptions.PolarsError as error:
            raise BadAttribute(f"{path.name} cannot be read: {error}") from error

    def save(self, path: Path) -> None:
        # without statistics: the file is read whole, so nobody would look at them
        self.frame.write_parquet(path, compression="zstd", statistics=False)

    def __len__(self) -> int:
        return self.frame.height

    def items(self, rows: Sequence[int]) -> Sequence[ItemValues]:
        """The attributes of single rows."""
        return self.frame[[row - 1 for row in rows]].to_dicts()

    def column(self, name: str) -> Column:
        """Raises BadAttribute where there is no such attribute."""
        if name not in self._columns:
            raise BadAttribute(f"no attribute {name[:64]!r}; there {_named(self._columns)}")
        return self._columns[name]

    def check(self, item: Mapping[str, object]) -> None:
        """Raises BadAttribute for values of a new item that are not of the attributes' types."""
        for name, value in item.items():
            column_type = self.column(name).type
            members = value if isinstance(value, list) else [value]
            if isinstance(value, list) != column_type.is_list or not all(map(column_type.takes, members)):
                raise BadAttribute(f"{name}: it holds {column_type}")
            if not all(map(column_type.keeps, members)):
                raise BadAttribute(f"{name}: it holds {column_type}, finite and of 64 bits")
            if len(members) > MAX_VALUES:
                raise BadAttribute(f"{name}: at most {MAX_VALUES} values")


def _type_of(name: str, dtype: "pl.DataType") -> ColumnType:
    if not NAME.fullmatch(name) or name in RESERVED:
        rule = f"letters, digits and _, at most 64, and not {', '.join(sorted(RESERVED))}"
        raise BadAttribute(f"an attribute cannot be called {name[:80]!r}; a name is {rule}")
    column_type = ColumnType.of(dtype)
    if column_type is None:
        known = "integers, numbers, true or false, text, and lists of integers or text"
        raise BadAttribute(f"the attribute {name} is of the type {dtype}; attributes are {known}")
    return column_type


def _named(columns: Mapping[str, Column]) -> str:
    return f"are {', '.join(columns)}" if columns else "are none"
