"""The `recall` command: prepare, train, build, evaluate, serve, query; each step reads what the one before wrote.

`export` writes the lists of all users to a file, `demo` does it all on synthetic logs, `doctor` checks the machine,
`reproduce` and `tune` make the table of systems, `bench` measures, `experiment` plans and judges an A/B test, `events`
keeps what users did, `keys` makes API keys.
"""

import sys
from collections.abc import Callable, Sequence
from functools import cache
from types import ModuleType
from typing import Annotated

import typer

from model import __version__
from recall.options import StrictCommand
from recall.terminal import err, out
from service.errors import RecallError
from service.telemetry.logging import configure_logging

COMMANDS = (
    *("prepare", "train", "build", "sign", "evaluate", "compare", "export", "serve", "query", "reload", "demo"),
    *("doctor", "reproduce", "tune"),
)
GROUPS = ("bench", "experiment", "events", "keys")


def command_named(name: str) -> Callable[..., None]:
    """One of COMMANDS. Imports its module and none of the others: to start a service takes no reader of logs."""
    module: ModuleType
    # an import for each, so that the rules of rooms see every arrow
    match name:
        case "prepare":
            from recall import data as module
        case "train":
            from recall.training import train as module
        case "build" | "sign" | "evaluate":
            from recall.training import build as module
        case "serve" | "query" | "reload":
            from recall import serving as module
        case "compare":
            from recall import comparing as module
        case "export":
            from recall import exporting as module
        case "demo":
            from recall import demo as module
        case "doctor":
            from recall import doctor as module
        case "reproduce":
            from recall import reproducing as module
        case _:
            from recall import tuning as module
    command: Callable[..., None] = getattr(module, name)
    return command


@cache
def group_named(name: str) -> typer.Typer:
    """One of GROUPS, with its commands."""
    match name:
        case "bench":
            from recall.benchmarking import bench as group
        case "events":
            from recall.experiments.events import events as group
        case "keys":
            from recall.keys import keys as group
        case _:
            from recall.experiments.guarding import guard_experiment
            from recall.experiments.planning import plan_experiment
            from recall.experiments.report import report_experiment
            from recall.experiments.verdict import experiment as group
            from recall.replay.command import replay

            for own in (plan_experiment, report_experiment, guard_experiment, replay):
                group.command(own.__name__.partition("_")[0], cls=StrictCommand)(own)
    return group


def make_app(names: Sequence[str] = (*COMMANDS, *GROUPS)) -> typer.Typer:
    """The command with these of its subcommands."""
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Recall for a short-video feed: train RecGPT and ComiRec on your logs, serve them, compare them.\n\n"
        "In this order: prepare, train, build, evaluate, serve, query. `recall demo` does all of it on synthetic logs.",
    )
    app.callback(invoke_without_command=True)(version)
    for name in names:
        if name in GROUPS:
            app.add_typer(group_named(name), name=name)
        else:
            app.command(cls=_class_of(name))(command_named(name))
    return app


def _class_of(name: str) -> type[StrictCommand]:
    if name != "train":
        return StrictCommand
    from recall.training.listing import TrainHelp

    return TrainHelp


def version(show: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    if show:
        out.print(__version__)
        raise typer.Exit


def main() -> None:
    """Runs a command; a user's mistake is one sentence, not a traceback."""
    # `serve` sets its own level; the answer of any other command stands alone on the terminal
    configure_logging("warning")
    try:
        # a word that names no subcommand may be a misspelt one, which is told by the names of all
        named = [word for word in sys.argv[1:2] if word in (*COMMANDS, *GROUPS)]
        app = make_app(named or (*COMMANDS, *GROUPS))
        # the same in usage lines for `recall` and `python -m recall`
        app(prog_name="recall")
    except (RecallError, ValueError, OSError) as error:
        err.print(f"recall: {sentence_of(error)}", markup=False)
        sys.exit(2)


def sentence_of(error: Exception) -> str:
    """Says what went wrong, without the number that the system has for it."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


if __name__ == "__main__":
    main()
