"""A table of items, a row each, as the attributes of a catalogue: Parquet, csv, tsv or JSON Lines."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from model.attributes.table import Attributes, BadAttribute
from model.catalogue import Catalogue, ExternalId, IdMap
from model.data.categories import Categories
from model.data.sequences import SequenceData
from model.logs.columns import ALIASES
from model.logs.events import DataError

CATEGORY = "category"
WHOLE = (pl.Int8, pl.Int16, pl.Int32, pl.UInt8, pl.UInt16, pl.UInt32, pl.UInt64)


def read_items(path: Path) -> pl.DataFrame:
    """The table in a file, its ids under the name `item`.

    Raises DataError when it cannot be read or has no column of ids.
    """
    try:
        table = _read(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    known = {name.lower(): name for name in table.columns}
    own = next((known[alias] for alias in ALIASES["item"] if alias in known), None)
    if own is None:
        raise DataError(
            f"{path} has no column of item ids; call it item (its columns: {', '.join(table.columns[:30])})"
        )
    return table.rename({own: "item"})


def _read(path: Path) -> pl.DataFrame:
    match path.name.removesuffix(".gz").rpartition(".")[2].lower():
        case "parquet":
            return pl.read_parquet(path)
        case "csv":
            return pl.read_csv(path, try_parse_dates=True, infer_schema_length=None)
        case "tsv":
            return pl.read_csv(path, separator="\t", try_parse_dates=True, infer_schema_length=None)
        case "jsonl" | "ndjson":
            return pl.read_ndjson(path, infer_schema_length=None)
    raise DataError(f"{path}: a table of items is .parquet, .csv, .tsv or .jsonl")


def with_attributes(data: SequenceData, table: pl.DataFrame | None, categories: Categories | None) -> SequenceData:
    """The data set with the table's columns as attributes, before those it has, and its categories as `category`.

    Raises DataError for ids that repeat or are of the other type, and for columns that can be no attributes.
    """
    items = data.catalogue.items
    columns = _columns_of(table, items) if table is not None else []
    own = data.catalogue.attributes.frame.get_columns() if data.catalogue.attributes else []
    own += [_categories(items, categories)] if categories else []
    named = {column.name: column for column in [*reversed(own), *columns]}
    if not named:
        return data
    try:
        attributes = Attributes(pl.DataFrame([*named.values()]))
    except BadAttribute as error:
        raise DataError(f"{error}; leave the column out of the table") from error
    return replace(data, catalogue=replace(data.catalogue, attributes=attributes))


def coverage(catalogue: Catalogue, table: pl.DataFrame) -> str:
    """A sentence for people: how many items the table knows."""
    attributes, items = catalogue.attributes, catalogue.items
    known = int(_own_ids(items).is_in(table["item"].implode()).sum())
    names = ", ".join(f"{name} ({kind})" for name, kind in (attributes.types if attributes else {}).items())
    return f"attributes of {known:,} of {len(items):,} items: {names}"


def _columns_of(table: pl.DataFrame, items: IdMap) -> list[pl.Series]:
    own = _own_ids(items)
    ids = table["item"].cast(own.dtype, strict=False)
    if ids.is_null().any():
        raise DataError(f"the table of items holds ids that are no {own.dtype}, and those of the log are")
    if ids.is_duplicated().any():
        raise DataError(f"the table of items has several rows of the item {ids.filter(ids.is_duplicated())[0]}")
    joined = pl.DataFrame({"item": own}).join(table.with_columns(ids), on="item", how="left", maintain_order="left")
    return [_typed(joined[name]) for name in table.columns if name != "item"]


def _own_ids(items: IdMap) -> pl.Series:
    if items.are_integers:
        return pl.Series("item", items.ids)
    return pl.Series("item", items.ids.tolist(), dtype=pl.String)


def _typed(column: pl.Series) -> pl.Series:
    """The column in one of the types of attributes where it can be: dates become milliseconds since 1970."""
    if column.dtype in (pl.Date, pl.Datetime):
        return column.cast(pl.Datetime("ms")).cast(pl.Int64)
    if column.dtype in WHOLE:
        return column.cast(pl.Int64)
    if column.dtype in (pl.Float32, pl.Decimal):
        return column.cast(pl.Float64)
    if isinstance(column.dtype, pl.Categorical | pl.Enum):
        return column.cast(pl.String)
    if isinstance(column.dtype, pl.List) and column.dtype.inner in WHOLE:
        return column.cast(pl.List(pl.Int64))
    return column


def _categories(items: IdMap, categories: Categories) -> pl.Series:
    """The lists of categories, all integers or all text."""
    lists: list[Sequence[ExternalId]] = [categories.get(str(item), ()) for item in items.ids.tolist()]
    are_integers = all(isinstance(value, int) for own in lists for value in own)
    inner: pl.DataType = pl.Int64() if are_integers else pl.String()
    values = [[value if are_integers else str(value) for value in own] for own in lists]
    return pl.Series(CATEGORY, values, dtype=pl.List(inner))
