"""Readers of known formats: S3-Rec text, RecBole atomic files, CSV and Parquet logs, each to EventLog and ReadReport.

One line is one row: a quoted CSV field must not contain a line break (such lines are reported as bad), so that a stray
quote costs its own line and never swallows the ones below. Text is held in memory and must stay below 4 GiB; use
Parquet above that.
Formats: github.com/aHuiWang/CIKM2020-S3Rec, recbole.io/docs/user_guide/data/atomic_files.html
"""

from collections.abc import Callable
from pathlib import Path

import polars as pl

from model.data.columns import ColumnPlan, TextTable, id_reason, infer_ids, plan_columns, to_log
from model.data.events import BadRow, DataError, EventLog, ReadReport

CSV_FIELD = r'(?:"(?:[^"]|"")*"|[^",]*)'
Reader = Callable[[Path], tuple[EventLog, ReadReport]]


def read_s3rec(path: Path) -> tuple[EventLog, ReadReport]:
    """Lines `user item item ...`, oldest item first; time is the position within the line.

    Rows of the report are items; a line that cannot be used counts as one bad row.
    """
    tokens = pl.col("text").str.extract_all(r"\S+")
    lines = _lines(path).select("line", tokens.list.first().alias("user"), tokens.list.slice(1).alias("item"))
    lines = lines.with_columns(_line_reason().alias("reason"))
    events = lines.filter(pl.col("reason").is_null()).drop("reason").explode("item")
    events = events.with_columns(id_reason("item").alias("reason"))
    failed = pl.concat([lines.drop("item"), events.drop("item")]).filter(pl.col("reason").is_not_null())
    bad = [BadRow(line, reason) for line, reason in failed.select("line", "reason").iter_rows()]
    good = events.filter(pl.col("reason").is_null())
    time = good.select(pl.int_range(pl.len()).over("line").cast(pl.Int64).alias("time"))["time"]
    frame = pl.DataFrame([infer_ids(good["user"]), infer_ids(good["item"]), time])
    return EventLog(frame), ReadReport.of(good.height + len(bad), bad)


def read_recbole(path: Path) -> tuple[EventLog, ReadReport]:
    """RecBole `.inter`: tab separated, a header of `name:type`, no quotes."""
    lines = _lines(path)
    header = [field.split(":")[0] for field in lines["text"][0].split("\t")]
    rows = lines.slice(1).with_columns(
        pl.col("text").str.split("\t").alias("fields"), pl.lit(True).alias("well_quoted")
    )
    return to_log(_pick_fields(rows, header, path))


def read_csv(path: Path) -> tuple[EventLog, ReadReport]:
    """Comma separated with a header; fields may be quoted. Columns go by the names in columns.ALIASES."""
    rows = _lines(path).with_columns(_csv_fields().alias("fields"), _is_well_quoted().alias("well_quoted"))
    header = rows["fields"][0].to_list()
    return to_log(_pick_fields(rows.slice(1), header, path))


def read_parquet(path: Path) -> tuple[EventLog, ReadReport]:
    """Columns go by the names in columns.ALIASES; dates and datetimes become milliseconds since 1970."""
    _check_file(path)
    try:
        names = list(pl.read_parquet_schema(path))
        plan = plan_columns(names, path)
        frame = pl.read_parquet(path, columns=[names[at] for _, at in plan.positions])
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}") from error
    # As text, Parquet takes the same checks as CSV and the two agree on every row.
    texts = [_as_text(frame[names[at]], path).alias(ours) for ours, at in plan.positions]
    line = pl.int_range(1, frame.height + 1, eager=True).alias("line")
    return to_log(TextTable(pl.DataFrame([line, *texts]), ignored=plan.ignored))


def _lines(path: Path) -> pl.DataFrame:
    """(line, text): every line of a file with its number; bytes that are not UTF-8 become U+FFFD."""
    _check_file(path)
    # Decoding by replacement keeps the line numbers right; ids with U+FFFD are reported later.
    text = path.read_bytes().decode("utf-8-sig", errors="replace").rstrip("\r\n")
    if not text.strip():
        raise DataError(f"{path} is empty")
    frame = pl.DataFrame({"text": [text]}).select(pl.col("text").str.split("\n").explode().str.strip_chars_end("\r"))
    return frame.with_row_index("line", offset=1)


def _check_file(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"{path} is not a file; give the path of the log to read")


def _line_reason() -> pl.Expr:
    # Two lines of one user could not be put in order: the file has no times.
    first = pl.col("line").first().over("user")
    return pl.coalesce(
        pl.when(pl.col("user").is_null()).then(pl.lit("the line is empty")),
        id_reason("user"),
        pl.when(pl.col("item").list.len() == 0).then(pl.lit("the user has no item")),
        pl.when(pl.col("line") != first).then(pl.format("user {} has a line already: {}", "user", first)),
    )


def _csv_fields() -> pl.Expr:
    text = pl.col("text")
    # With a comma in front, every field is one match that starts with its comma, an empty first field too.
    matches = pl.concat_str(pl.lit(","), text).str.extract_all("," + CSV_FIELD)
    field = pl.element().str.slice(1)
    quoted = field.str.starts_with('"') & field.str.ends_with('"')
    inside = field.str.strip_prefix('"').str.strip_suffix('"').str.replace_all('""', '"', literal=True)
    unquoted = matches.list.eval(pl.when(quoted).then(inside).otherwise(field))
    return pl.when(text.str.contains('"', literal=True)).then(unquoted).otherwise(text.str.split(","))


def _is_well_quoted() -> pl.Expr:
    text = pl.col("text")
    return ~text.str.contains('"', literal=True) | text.str.contains(f"^{CSV_FIELD}(?:,{CSV_FIELD})*$")


def _pick_fields(rows: pl.DataFrame, header: list[str], path: Path) -> TextTable:
    plan: ColumnPlan = plan_columns(header, path)
    marked = rows.with_columns(_shape_reason(len(header)).alias("reason"))
    failed = marked.filter(pl.col("reason").is_not_null())
    bad = tuple(BadRow(line, reason) for line, reason in failed.select("line", "reason").iter_rows())
    fields = [pl.col("fields").list.get(at).alias(ours) for ours, at in plan.positions]
    return TextTable(marked.filter(pl.col("reason").is_null()).select("line", *fields), bad, plan.ignored)


def _shape_reason(width: int) -> pl.Expr:
    # A stray quote stands before the field count: it is the cause of a wrong count.
    count = pl.col("fields").list.len()
    return (
        pl.when(pl.col("text") == "")
        .then(pl.lit("the line is empty"))
        .when(~pl.col("well_quoted"))
        .then(pl.lit("a quote is not closed on its line, or stands inside a field"))
        .when(count != width)
        .then(pl.format("{} fields; the header has {}", count, pl.lit(width)))
    )


def _as_text(column: pl.Series, path: Path) -> pl.Series:
    if column.dtype.is_nested() or column.dtype == pl.Object:
        raise DataError(f"{path}: column {column.name} holds {column.dtype}; it must hold one plain value a row")
    if column.dtype in (pl.Date, pl.Datetime):
        return column.dt.epoch("ms").cast(pl.String)
    # pandas turns integer columns with gaps into floats, and the gaps into NaN: 12.0 is the id 12.
    column = column.fill_nan(None) if column.dtype.is_float() else column
    if column.dtype.is_float() and (column.drop_nulls() % 1 == 0).all():
        return column.cast(pl.Int64, strict=False).cast(pl.String)
    return column.cast(pl.String, strict=False)


READERS: dict[str, Reader] = {"s3rec": read_s3rec, "recbole": read_recbole, "csv": read_csv, "parquet": read_parquet}
