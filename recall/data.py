"""recall prepare: from any known format to a prepared data set."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from model.data.events import DataError, ReadReport
from model.data.positives import PositiveRule
from model.data.prepare import PrepareOptions
from model.data.prepare import prepare as prepare_data
from model.data.sequences import SequenceData
from model.data.splits import TimeCut
from recall.options import takes
from recall.terminal import err, last_line, out

Option = typer.Option


@dataclass(frozen=True, slots=True, kw_only=True)
class PrepareCommand:
    """The options of `recall prepare`."""

    output: Annotated[Path, Option(help="Folder to write; made when it does not exist.")]
    input_format: Annotated[
        str, Option("--format", help="Format: s3rec, recbole, csv, parquet, kuairand, kuairec or synthetic.")
    ] = "synthetic"
    input_path: Annotated[
        Path | None, Option("--input", help="File to read; a folder for kuairand; nothing for synthetic.")
    ] = None
    split: Annotated[str | None, Option(help="leave-one-out or by-time. Default: the usual one of the format.")] = None
    shares: Annotated[
        str | None,
        Option(help="For by-time: shares of all events for validation and test. Default: 0.1,0.1."),
    ] = None
    cut: Annotated[
        str | None, Option(help="For by-time, in place of shares: first time of validation and of test, with a comma.")
    ] = None
    categories: Annotated[
        Path | None,
        Option(help="JSON file: item -> list of categories. s3rec finds <name>_item2attributes.json by itself."),
    ] = None
    k_core: Annotated[int, Option(help="Keep users and items with at least this many events; 0 keeps all of them.")] = 0
    positive: Annotated[
        list[str] | None,
        Option(
            help="Events that count, any of: watch:0.5 (share of the video watched), like, follow, share, "
            "comment, click; kuairand: long_view or is_click. A stricter rule leaves cleaner and fewer events. "
            "Default: every event."
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
        input=options.input_path,
        split=options.split,  # type: ignore[arg-type]
        k_core=options.k_core,
        max_bad_share=options.max_bad_share,
        categories=options.categories,
        **read_times(options.shares, options.cut),
        **read_positive(options.input_format, options.positive or []),
    )
    data, report = prepare_data(wanted)
    data.save(options.output)
    show_report(report)
    show_data(data, options.output)


def read_times(shares: str | None, cut: str | None) -> dict[str, Any]:
    """The part of PrepareOptions that says where a split by time is cut."""
    if shares is not None and cut is not None:
        raise DataError("--shares and --cut both say where to cut; give one of them")
    options: dict[str, Any] = {}
    if shares is not None:
        options["valid_share"], options["test_share"] = _two_numbers("--shares", shares)
    if cut is not None:
        options["cut"] = TimeCut(*_two_numbers("--cut", cut))
    return options


def _two_numbers(option: str, text: str) -> tuple[float, float]:
    try:
        first, second = map(float, text.split(","))
    except ValueError:
        raise DataError(f"{option} is {text!r}; it takes two numbers with a comma between them") from None
    return first, second


def read_positive(input_format: str, words: list[str]) -> dict[str, Any]:
    """The part of PrepareOptions that says which events count."""
    if input_format == "kuairand":
        if len(words) > 1:
            raise DataError("kuairand takes one --positive: long_view or is_click")
        return {"target": words[0]} if words else {}
    ratios = [word.removeprefix("watch:") for word in words if word.startswith("watch:")]
    if len(ratios) > 1 or not all(ratio.replace(".", "", 1).isdecimal() for ratio in ratios):
        raise DataError("--positive watch:RATIO may stand once, with a number such as watch:0.5")
    reactions = tuple(word for word in words if not word.startswith("watch:"))
    return {"positive": PositiveRule(float(ratios[0]) if ratios else None, reactions)}


def show_report(report: ReadReport) -> None:
    if report.ignored_columns:
        err.print(f"ignored columns: {', '.join(report.ignored_columns)}")
    for bad in report.first_bad:
        err.print(f"[yellow]bad row[/yellow] line {bad.line}: {bad.reason}")
    if report.rows_bad:
        err.print(f"{report.rows_bad} of {report.rows_read} rows are bad and were left out")


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
