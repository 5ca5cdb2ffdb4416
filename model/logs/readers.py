"""Readers of logs: delimited text, JSON Lines, Parquet and S3-Rec files, any number of them, to one EventLog.

One line is one row: a quoted field must not contain a line break (such lines are reported as bad), so that a stray
quote costs its own line and never swallows the ones below. Files are read in blocks, so that memory follows the events
and not the files. Formats: github.com/aHuiWang/CIKM2020-S3Rec, recbole.io/docs/user_guide/data/atomic_files.html
"""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl

from model.logs.columns import LogShape, plan_columns
from model.logs.events import SIGNALS, DataError, EventLog, ReadReport
from model.logs.files import Block, blocks, find_files, format_of, sample, unheard
from model.logs.layout import TextLayout, find_layout
from model.logs.values import Collector, RawPart, as_plain, check_ids

PARQUET_ROWS = 2**20  # read at once
UNIT_SEPARATOR = "\x1f"  # stands for a separator of several characters while a line is divided
Progress = Callable[[int, float], None]
Parts = Callable[[Path, LogShape, Collector], Iterator[RawPart]]


def read_log(
    inputs: Sequence[Path],
    log_format: str | None = None,
    shape: LogShape | None = None,
    on_rows: Progress | None = None,
    signals: Collection[str] = SIGNALS,
) -> tuple[EventLog, ReadReport]:
    """The events of all files that `inputs` mean (files, folders, globs); a format of None is guessed for each file.

    `on_rows` is told how many rows have been read so far, and which share of the bytes.
    signals: those whose values are wanted; others are checked and take no memory.
    Raises DataError for what cannot be read, and for a file that is no log.
    """
    shape = shape or LogShape()
    files = find_files(inputs)
    collector = Collector(shape.timezone, signals)
    num_rows, sizes = 0, [path.stat().st_size for path in files]
    for number, path in enumerate(files):
        known = log_format or format_of(path)
        if log_format is None:
            collector.note((), [f"format: {known}"])
        for part in FORMATS[known](path, shape, collector):
            collector.add(replace(part, source=str(path)) if len(files) > 1 else part)
            num_rows += part.frame.height + len(part.bad)
            if on_rows is not None:
                on_rows(num_rows, (sum(sizes[:number]) + part.share * sizes[number]) / max(sum(sizes), 1))
    return collector.finish()


def _text_parts(path: Path, shape: LogShape, collector: Collector) -> Iterator[RawPart]:
    layout = find_layout(sample(path), path, shape)
    collector.note(layout.plan.ignored, layout.notes)
    is_first = layout.has_header
    for block in blocks(path):
        line, text = _below_header(block) if is_first else (block.first_line, block.text)
        is_first = False
        if text:
            yield replace(_divide(text, line, layout), share=block.share)


def _recbole_parts(path: Path, shape: LogShape, collector: Collector) -> Iterator[RawPart]:
    yield from _text_parts(path, replace(shape, separator=shape.separator or "\t"), collector)


def _json_parts(path: Path, shape: LogShape, collector: Collector) -> Iterator[RawPart]:
    if shape.header or shape.separator:
        raise DataError(f"{path} is JSON, whose lines name their fields: leave --header and --separator out")
    lines = sample(path)
    if lines[0].lstrip().startswith("["):
        raise DataError(f"{path} is one JSON array; write one object a line: jq -c '.[]' FILE")
    keys = dict.fromkeys(key for line in lines for key in _parsed(line) or ())
    if not keys:
        raise DataError(f"{path} holds no JSON object in its first lines")
    plan = plan_columns([*keys], path, shape)
    collector.note(plan.ignored, [plan.note])
    names = {ours: [*keys][at] for ours, at in plan.positions}
    for block in blocks(path):
        texts = pl.Series("text", [block.text]).str.split("\n").explode()
        line = pl.int_range(block.first_line, block.first_line + len(texts), eager=True).alias("line")
        yield replace(_decode_json(texts, line, names), share=block.share)


def _parquet_parts(path: Path, shape: LogShape, collector: Collector) -> Iterator[RawPart]:
    if shape.header or shape.separator:
        raise DataError(f"{path} is Parquet, which names its columns: leave --header and --separator out")
    try:
        with unheard():
            header = list(pl.read_parquet_schema(path))
        plan = plan_columns(header, path, shape)
        collector.note(plan.ignored, [plan.note])
        names = {header[at]: ours for ours, at in plan.positions}
        table = pl.scan_parquet(path, hive_partitioning=False, glob=False).select([*names])
        with unheard():
            num_rows = table.select(pl.len()).collect().item()
        for start in range(0, max(num_rows, 1), PARQUET_ROWS):
            with unheard():
                frame = table.slice(start, PARQUET_ROWS).collect()
            columns = [as_plain(frame[theirs], ours, path).alias(ours) for theirs, ours in names.items()]
            line = pl.int_range(start + 1, start + frame.height + 1, eager=True).alias("line")
            yield RawPart(pl.DataFrame([line, *columns]), share=(start + frame.height) / max(num_rows, 1))
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {str(error).splitlines()[0]}") from error


def _s3rec_parts(path: Path, shape: LogShape, collector: Collector) -> Iterator[RawPart]:
    """Lines `user item item ...`, oldest item first; time is the position within the line.

    Rows are items; a line that cannot be used counts as one bad row.
    """
    if shape != LogShape():
        raise DataError("s3rec files have no columns to name and no times: leave --column and its like out")
    sample(path)
    collector.note((), ["no times: the items of a user are taken in the order of their line"])
    texts = [(block.first_line, block.text) for block in blocks(path)]
    lines = pl.concat(_numbered(text, first) for first, text in texts)
    tokens = pl.col("text").str.extract_all(r"\S+")
    lines = lines.select("line", tokens.list.first().alias("user"), tokens.list.slice(1).alias("item"))
    reason = check_ids("user", lines["user"]).reason
    lines = lines.with_columns(_line_reason(reason).alias("reason"))
    bad = lines.filter(pl.col("reason").is_not_null()).select("line", "reason").rows()
    events = lines.filter(pl.col("reason").is_null()).select("line", "user", "item").explode("item")
    yield RawPart(events.with_columns(pl.int_range(pl.len()).over("line").cast(pl.Int64).alias("time")), tuple(bad))


def _line_reason(user_reason: pl.Series | None) -> pl.Expr:
    # Two lines of one user could not be put in order: the file has no times.
    first = pl.col("line").first().over("user")
    return pl.coalesce(
        pl.when(pl.col("user").is_null()).then(pl.lit("the line is empty")),
        pl.lit(user_reason, dtype=pl.String) if user_reason is not None else pl.lit(None, dtype=pl.String),
        pl.when(pl.col("item").list.len() == 0).then(pl.lit("the user has no item")),
        pl.when(pl.col("line") != first).then(pl.format("the user has a line already: {}", first)),
    )


def _below_header(block: Block) -> tuple[int, str]:
    """The lines below the first that is not blank."""
    line = block.first_line + 1
    head, _, rest = block.text.partition("\n")
    while not head.strip():
        head, _, rest = rest.partition("\n")
        line += 1
    return line, rest


def _numbered(text: str, first_line: int) -> pl.DataFrame:
    """(line, text) of whole lines."""
    return pl.DataFrame({"text": pl.Series([text]).str.split("\n").explode()}).with_row_index("line", offset=first_line)


def _divide(text: str, first_line: int, layout: TextLayout) -> RawPart:
    """The fields of whole lines; a line with another number of fields is bad."""
    separator = layout.separator
    if separator == " ":
        texts = pl.Series("text", [text]).str.split("\n").explode().str.strip_chars(" \t")
        text = "\n".join(texts.str.replace_all(r"[ \t]+", " ").to_list())
    elif len(separator.encode()) > 1:
        text, separator = text.replace(separator, UNIT_SEPARATOR), UNIT_SEPARATOR
    is_quoted = layout.is_quoted and '"' in text
    frame = pl.DataFrame({"text": pl.Series([text]).str.split("\n").explode()}).with_row_index(
        "line", offset=first_line
    )
    reason = _shape_reason(separator, layout.num_fields, is_quoted)
    marked = frame.with_columns(reason.alias("reason"))
    bad: list[tuple[int, str]] = []
    if marked["reason"].null_count() < marked.height:
        bad = marked.filter(pl.col("reason").is_not_null()).select("line", "reason").rows()
        frame = marked.filter(pl.col("reason").is_null())
        text = "\n".join(frame["text"].to_list())
    fields = _fields(text, separator, is_quoted, layout)
    return RawPart(fields.with_columns(frame["line"].cast(pl.Int64)), tuple(bad))


def _fields(text: str, separator: str, is_quoted: bool, layout: TextLayout) -> pl.DataFrame:
    """The columns of the plan, of lines that all have the right number of fields."""
    if not text:
        return pl.DataFrame(schema=dict.fromkeys(layout.plan.names, pl.String))
    places = sorted(layout.plan.positions, key=lambda place: place[1])
    table = pl.read_csv(
        text.encode(),
        separator=separator,
        quote_char='"' if is_quoted else None,
        has_header=False,
        infer_schema=False,
        columns=[at for _, at in places],
    )
    return table.rename(dict(zip(table.columns, (ours for ours, _ in places), strict=True)))


def _shape_reason(separator: str, num_fields: int, is_quoted: bool) -> pl.Expr:
    text = pl.col("text")
    count = text.str.count_matches(separator, literal=True) + 1
    reasons = [pl.when(text == "").then(pl.lit("the line is empty"))]
    if is_quoted:
        mark = f"\\x{{{ord(separator):x}}}"
        field = f'(?:"(?:[^"]|"")*"|[^"{mark}]*)'
        has_quote = text.str.contains('"', literal=True)
        # with a separator in front, every field is one match that starts with it
        quoted_count = pl.concat_str(pl.lit(separator), text).str.count_matches(mark + field)
        count = pl.when(has_quote).then(quoted_count).otherwise(count)
        # a stray quote stands before the field count: it is the cause of a wrong count
        is_broken = has_quote & ~text.str.contains(f"^{field}(?:{mark}{field})*$")
        reasons.append(pl.when(is_broken).then(pl.lit("a quote is not closed on its line, or stands inside a field")))
    wrong_count = pl.format("{} fields; there must be {}", count, pl.lit(num_fields))
    return pl.coalesce(*reasons, pl.when(count != num_fields).then(wrong_count))


def _decode_json(texts: pl.Series, line: pl.Series, names: dict[str, str]) -> RawPart:
    kinds = pl.Struct(dict.fromkeys(names.values(), pl.String))
    # polars reads one object after the other, wherever lines end: two on a line, or one over two, would move the others
    bare = texts.str.strip_chars()
    if not (bare.str.starts_with("{") & bare.str.ends_with("}") & ~bare.str.contains(r"\}\s*\{")).all():
        return _decode_each(texts.to_list(), line, names)
    try:
        table = texts.str.json_decode(kinds).struct.unnest()
    except pl.exceptions.PolarsError:
        return _decode_each(texts.to_list(), line, names)
    return RawPart(table.select(line, *(pl.col(theirs).alias(ours) for ours, theirs in names.items())))


def _decode_each(texts: Iterable[str], line: pl.Series, names: dict[str, str]) -> RawPart:
    """The same line by line, for a block in which some are not as they should be."""
    bad, lines, rows = [], [], []
    for number, text in zip(line.to_list(), texts, strict=True):
        parsed = _parsed(text)
        if parsed is None:
            bad.append((number, "the line is empty" if not text.strip() else "the line is no JSON object"))
            continue
        values = [parsed.get(theirs) for theirs in names.values()]
        nested = next((ours for ours, value in zip(names, values, strict=True) if isinstance(value, list | dict)), None)
        if nested:
            bad.append((number, f"{nested} holds a list or an object"))
            continue
        lines.append(number)
        rows.append([_as_text(value) for value in values])
    columns = dict.fromkeys(names, pl.String)
    frame = pl.DataFrame(rows, schema=columns, orient="row") if rows else pl.DataFrame(schema=columns)
    return RawPart(frame.with_columns(pl.Series("line", lines, dtype=pl.Int64)), tuple(bad))


def _as_text(value: object) -> str | None:
    if not isinstance(value, str):
        return None if value is None else json.dumps(value)
    # half of a surrogate pair is no character, and no text holds it
    return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _parsed(text: str) -> dict[str, object] | None:
    try:
        value = json.loads(text, parse_int=str, parse_float=str)  # every digit is kept
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


FORMATS: dict[str, Parts] = {
    "csv": _text_parts,
    "recbole": _recbole_parts,
    "jsonl": _json_parts,
    "parquet": _parquet_parts,
    "s3rec": _s3rec_parts,
}
