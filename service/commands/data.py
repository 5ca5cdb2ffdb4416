"""recall prepare: from any known format to a prepared data set."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from model.data.events import ReadReport
from model.data.positives import PositiveRule
from model.data.prepare import PrepareOptions
from model.data.prepare import prepare as prepare_data
from model.data.sequences import SequenceData
from model.data.synthetic import SyntheticSpec
from service.commands.console import err, last_line, out

Option = typer.Option


def prepare(
    output: Annotated[Path, Option(help="Folder to write; made when it does not exist.")],
    input_format: Annotated[
        str, Option("--format", help="s3rec, recbole, csv, parquet, kuairand or synthetic.")
    ] = "synthetic",
    input_path: Annotated[
        Path | None, Option("--input", help="The file; for kuairand its folder; none for synthetic.")
    ] = None,
    split: Annotated[str | None, Option(help="leave-one-out or by-time; each format has its usual one.")] = None,
    k_core: Annotated[int, Option(help="Keep users and items with at least this many events; 0 keeps all.")] = 0,
    min_watch_ratio: Annotated[
        float | None, Option(help="Positive = watched at least this share of the video; higher is cleaner and fewer.")
    ] = None,
    reaction: Annotated[
        list[str] | None, Option(help="Positive = any of these: like, follow, share, comment, click.")
    ] = None,
    target: Annotated[str, Option(help="kuairand: long_view or is_click.")] = "long_view",
    max_bad_share: Annotated[
        float, Option(help="Stop when more than this share of rows is bad; bad rows are listed.")
    ] = 0.01,
    seed: Annotated[int, Option(help="Of the synthetic logs.")] = 7,
) -> None:
    """Read logs, check every row, split, and write a data set that `recall train` reads."""
    options = PrepareOptions(
        format=input_format,  # type: ignore[arg-type]  # prepare() refuses unknown words in one sentence
        input=input_path,
        split=split,  # type: ignore[arg-type]
        k_core=k_core,
        positive=PositiveRule(min_watch_ratio, tuple(reaction or ())),
        target=target,  # type: ignore[arg-type]
        max_bad_share=max_bad_share,
        synthetic=SyntheticSpec(seed=seed),
    )
    data, report = prepare_data(options)
    data.save(output)
    show_report(report)
    show_data(data, output)


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
