"""recall prepare: from any known format to a prepared data set."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from model.data.outcomes import read_outcomes
from model.data.prepare import PrepareOptions
from model.data.prepare import prepare as prepare_data
from model.data.sequences import PREPARED, SequenceData
from model.data.splits import TimeCut
from model.folders.whole import check_target
from model.logs.columns import LogShape
from model.logs.events import DataError, ReadReport
from model.logs.layout import SEPARATORS
from model.positive import PositiveRule
from recall.options import takes
from recall.terminal import err, last_line, out

Option = typer.Option
MAX_IGNORED, MAX_REASONS = 20, 6  # named on the terminal


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareCommand:
    """The options of `recall prepare`."""

    output: Annotated[Path, Option(help="Folder to write; an older data set there is replaced in one step.")]
    input_format: Annotated[
        str | None,
        Option(
            "--format",
            help="Format: csv (any separator), jsonl, parquet, recbole, s3rec, kuairand, kuairec, events (of a running "
            "service) or synthetic. Default: guessed, file by file; synthetic without an input.",
        ),
    ] = None
    input_paths: Annotated[
        list[Path] | None,
        Option(
            "--input",
            help="A file, a folder of files, or a quoted glob, compressed or not; may be repeated: all are one log.",
        ),
    ] = None
    column: Annotated[
        list[str] | None,
        Option(help="The file's name of a column: item=clip,play_time_ms=watched_ms. Default: names that are known."),
    ] = None
    header: Annotated[
        str | None,
        Option(help="Columns of files without a header, in order: user,item,-,time; - leaves one out."),
    ] = None
    separator: Annotated[
        str | None, Option(help="Between fields: comma, tab, semicolon, pipe, space, or any text. Default: guessed.")
    ] = None
    timezone: Annotated[
        str | None, Option(help="Zone of times that name none, such as Asia/Shanghai. Default: UTC.")
    ] = None
    in_order: Annotated[bool, Option("--in-order", help="Lines are in the order of time; no column of times.")] = False
    split: Annotated[str | None, Option(help="leave-one-out or by-time. Default: the usual one of the format.")] = None
    shares: Annotated[
        str | None,
        Option(help="For by-time: shares of all events for validation and test. Default: 0.1,0.1."),
    ] = None
    cut: Annotated[
        str | None,
        Option(
            help="For by-time, in place of shares: first time of validation and of test, with a comma; numbers of the "
            "log's unit, or dates."
        ),
    ] = None
    categories: Annotated[
        Path | None,
        Option(help="JSON file: item -> list of categories. s3rec finds <name>_item2attributes.json by itself."),
    ] = None
    items: Annotated[
        Path | None,
        Option(
            help="Table of items (.parquet, .csv, .tsv, .jsonl), a row each; its columns become attributes, which "
            "requests filter by. Without one, categories alone do."
        ),
    ] = None
    k_core: Annotated[
        int, Option(min=0, help="Keep users and items with at least this many events; 0 keeps all of them.")
    ] = 0
    positive: Annotated[
        list[str] | None,
        Option(
            help="Events that count, any of: watch:0.5 (share of the video watched), like, follow, share, "
            "comment, click; kuairand: long_view or is_click. A stricter rule leaves cleaner and fewer events. "
            "Default: every event."
        ),
    ] = None
    outcome: Annotated[
        list[str] | None,
        Option(
            help="What a positive event may end with, so that lists can be asked for it: like, follow, share, comment, "
            "click, or watch:0.9 (named long_view); may be repeated. kuairand has long_view and like by itself."
        ),
    ] = None
    max_bad_share: Annotated[float, Option(help="Stop when more than this share of the rows is bad.")] = 0.01


@takes(PrepareCommand)
def prepare(options: PrepareCommand) -> None:
    """Turn logs into a data set.

    Every row is checked, bad ones are named with line and reason; `recall train` reads the folder that is written.
    """
    wanted = PrepareOptions(
        format=options.input_format,  # type: ignore[arg-type]  # prepare_data() refuses unknown words in one sentence
        input=next(iter(options.input_paths or ()), None),
        more_inputs=tuple((options.input_paths or ())[1:]),
        shape=read_shape(options),
        split=options.split,  # type: ignore[arg-type]
        k_core=options.k_core,
        max_bad_share=options.max_bad_share,
        categories=options.categories,
        items=options.items,
        **read_times(options.shares, options.cut),
        **read_positive(options.input_format, options.positive or []),
        **read_marks(options.input_format, options.outcome or []),
    )
    check_target(PREPARED, options.output)
    with progress_of_rows() as on_rows:
        data, report = prepare_data(wanted, on_rows)
    data.save(options.output)
    show_report(report)
    show_data(data, options.output)


def read_shape(options: PrepareCommand) -> LogShape:
    """The part of PrepareOptions that says what a log's files do not say themselves."""
    return LogShape(
        columns=read_columns(options.column or []),
        header=tuple(name.strip() for name in (options.header or "").split(",") if name.strip()),
        separator=SEPARATORS.get(options.separator or "", options.separator),
        timezone=options.timezone,
        in_order=options.in_order,
    )


def read_columns(words: list[str]) -> dict[str, str]:
    """['user=viewer,item=clip id'] -> {'user': 'viewer', 'item': 'clip id'}."""
    pairs = [pair.partition("=") for word in words for pair in word.split(",")]
    if not all(ours.strip() and theirs.strip() for ours, _, theirs in pairs):
        raise DataError(f"--column is {','.join(words)!r}; it takes pairs such as item=clip,time=seen_at")
    names = [ours.strip() for ours, _, _ in pairs]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise DataError(f"--column names {twice} twice")
    return {ours.strip(): theirs.strip() for ours, _, theirs in pairs}


def read_times(shares: str | None, cut: str | None) -> dict[str, Any]:
    """The part of PrepareOptions that says where a split by time is cut."""
    if shares is not None and cut is not None:
        raise DataError("--shares and --cut both say where to cut; give one of them")
    options: dict[str, Any] = {}
    if shares is not None:
        options["valid_share"], options["test_share"] = _two_numbers("--shares", shares)
    if cut is not None:
        options["cut"] = TimeCut(*_two("--cut", cut))
    return options


def _two_numbers(option: str, text: str) -> tuple[float, float]:
    try:
        first, second = map(float, text.split(","))
    except ValueError:
        raise DataError(f"{option} is {text!r}; it takes two numbers with a comma between them") from None
    return first, second


def _two(option: str, text: str) -> tuple[str, str]:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 2 or not all(parts):
        raise DataError(f"{option} is {text!r}; it takes two times with a comma between them")
    return parts[0], parts[1]


def read_positive(input_format: str | None, words: list[str]) -> dict[str, Any]:
    """The part of PrepareOptions that says which events count."""
    if input_format == "kuairand":
        if len(words) > 1:
            raise DataError("kuairand takes one --positive: long_view or is_click")
        return {"target": words[0]} if words else {}
    try:
        return {"positive": PositiveRule.parse(words)}
    except ValueError as error:
        raise DataError(f"--positive: {error}") from error


def read_marks(input_format: str | None, words: list[str]) -> dict[str, Any]:
    """The part of PrepareOptions that says what events may end with."""
    if words and input_format in ("kuairand", "kuairec", "s3rec"):
        raise DataError(f"--outcome: {input_format} has {'its own outcomes' if input_format == 'kuairand' else 'none'}")
    try:
        return {"outcomes": read_outcomes(words)}
    except ValueError as error:
        raise DataError(f"--outcome: {error}") from error


@contextmanager
def progress_of_rows() -> Iterator[Callable[[int, float], None]]:
    """A bar with the share and the rows read so far, while a log is read."""
    rows = TextColumn("{task.fields[rows]:,} rows read", markup=False)
    columns = (BarColumn(), TaskProgressColumn(), rows, TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=err, transient=True, disable=not err.is_terminal) as progress:
        task = progress.add_task("read", total=1.0, rows=0)
        yield lambda num_rows, share: progress.update(task, completed=share, rows=num_rows)


def show_report(report: ReadReport) -> None:
    for note in report.notes:
        err.print(note)
    if report.ignored_columns:
        names = report.ignored_columns
        more = f" and {len(names) - MAX_IGNORED} more" if len(names) > MAX_IGNORED else ""
        err.print(f"ignored columns: {', '.join(names[:MAX_IGNORED])}{more}")
    for bad in report.first_bad:
        err.print(f"bad row {bad}", style="yellow")
    if report.rows_bad:
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in report.reasons[:MAX_REASONS])
        err.print(f"{report.rows_bad} of {report.rows_read} rows are bad and were left out: {reasons}")


def show_data(data: SequenceData, folder: Path) -> None:
    table = Table(title=f"{data.name} -> {folder}", show_header=False)
    sizes = {
        "users": len(data.catalogue.users),
        "items": len(data.catalogue.items),
        "train": len(data.train.values),
        "valid": len(data.valid.values),
        "test": len(data.test.values),
    }
    for name, value in sizes.items():
        table.add_row(name, f"{value:,}")
    table.add_row("split", data.protocol)
    out.print(table)
    last_line({"data": str(folder), "digest": data.digest, **sizes})
