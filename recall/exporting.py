"""recall export: the lists of a bundle for all users of a data set or of a log, in one Parquet file."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from model.data.sequences import SPLITS, Split
from recall.data import progress_of_rows, show_report
from recall.options import takes
from recall.terminal import err, last_line, progress_bar

if TYPE_CHECKING:
    from service.export.export import ListExport, MakeParts

Option = typer.Option
INTERRUPTED = 130  # the exit status that shells give Ctrl-C


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportCommand:
    """The options of `recall export`."""

    bundle: Annotated[Path, Option(help="Bundle folder whose lists are wanted.")]
    data: Annotated[
        Path,
        Option(
            help="Folder that `recall prepare` wrote, or a log as it is: a file, a folder of files or a quoted glob, "
            "where `recall prepare` needs no option to read it."
        ),
    ]
    output: Annotated[Path, Option(help="Parquet file to write; an older one there is replaced in one step.")]
    top_n: Annotated[int, Option(min=1, help="Length of the lists.")] = 100
    before: Annotated[
        str | None,
        Option(
            help="valid or test: leave out this split of a prepared data set and what is later, as `recall evaluate` "
            "does. Default: all events are history."
        ),
    ] = None
    part_users: Annotated[
        int, Option(min=1, help="Users that are written at once; the most that an interruption costs.")
    ] = 2048
    resume: Annotated[
        bool, Option(help="Go on after the last part of an interrupted run of the same command, or start anew.")
    ] = True
    device: Annotated[str, Option(help="auto, cpu or cuda; auto takes a GPU where there is one.")] = "auto"
    ray_workers: Annotated[
        int | None,
        Option(
            min=1,
            help="Make the parts on so many Ray workers, each with a core or, on cuda, a card; with RAY_ADDRESS those "
            "of a cluster. Default: in this process.",
        ),
    ] = None


def read_split(word: str | None) -> Split | None:
    """Raises BadParameter for a word that names no split."""
    if word is None or word in SPLITS:
        return word
    raise typer.BadParameter(f"before is {' or '.join(SPLITS)}")


def need_ray() -> None:
    """Raises ValueError, with the way out, where Ray Data is not installed."""
    import importlib.util

    if missing := [name for name in ("ray", "pandas", "pyarrow") if importlib.util.find_spec(name) is None]:
        raise ValueError(f"--ray-workers needs {' and '.join(missing)}: pip install 'recgpt-recall[ray]'")


def on_ray(wanted: "ListExport", bundle: Path, device: str, num_workers: int | None) -> "MakeParts | None":
    """The maker of parts on Ray workers; None where no workers are asked for."""
    if num_workers is None:
        return None
    from service.export.on_ray import RaySpread

    return RaySpread(wanted, bundle, device, num_workers).tables


@takes(ExportCommand)
def export(options: ExportCommand) -> None:
    """Write the lists of all users to a file.

    They are the lists that `recall serve` answers with for the same histories. After Ctrl-C, a crash or a kill the same
    command goes on where it stopped and ends with the same file. The last line is JSON.
    """
    from service.engine.loading import choose_device, load_arm
    from service.export.export import ListExport, check_users
    from service.export.histories import UserHistories, check_before, read_data
    from service.export.parts import PartFolder, check_output

    if options.ray_workers:
        need_ray()
    check_output(options.output, options.bundle, options.data)
    before = read_split(options.before)
    with progress_of_rows() as on_rows:
        data, report = read_data(options.data, on_rows)
    if report:
        show_report(report)
    check_before(data, before)
    histories, device = UserHistories.of(data, before), choose_device(options.device)
    check_users(histories, options.data)
    wanted = ListExport(load_arm("exported", options.bundle, device), histories, options.top_n, options.part_users)
    make = on_ray(wanted, options.bundle, device, options.ray_workers)
    facts = wanted.facts(device)
    with PartFolder.opened(options.output, facts, options.resume) as parts, progress_bar() as progress:
        if done := wanted.num_done(parts):
            err.print(f"goes on after the {done:,} users of an interrupted export, kept in {parts.path}")
        elif parts.was_other:
            err.print(f"{parts.path} kept parts of other options, data or bundle; this export starts at the first user")
        task = progress.add_task("export", total=len(histories))
        try:
            wanted.run(parts, lambda done: progress.update(task, completed=done), make)
        except KeyboardInterrupt:
            progress.stop()
            err.print(f"interrupted; {parts.path} keeps what is done: the same command goes on from there")
            raise typer.Exit(INTERRUPTED) from None
    last_line({"lists": str(options.output), "users": len(histories), **facts})
