"""The `recall` command: prepare, train, build, evaluate, serve, query; each step reads what the one before wrote.

`export` writes the lists of all users to a file, `demo` does it all on synthetic logs, `doctor` checks the machine,
`reproduce` and `tune` make the table of systems, `bench` measures, `experiment` plans and judges an A/B test, `events`
keeps what users did, `keys` makes API keys.
"""

import sys
from collections.abc import Callable
from typing import Annotated

import typer

from model import __version__
from recall import benchmarking, comparing, data, demo, doctor, exporting, keys, reproducing, serving, tuning
from recall.experiments import events, guarding, planning, report, verdict
from recall.options import StrictCommand
from recall.replay.command import replay
from recall.terminal import err, out
from recall.training import build, train
from recall.training.listing import TrainHelp
from service.errors import RecallError
from service.telemetry.logging import configure_logging

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Recall for a short-video feed: train RecGPT and ComiRec on your logs, serve them, compare them.\n\n"
    "In this order: prepare, train, build, evaluate, serve, query. `recall demo` does all of it on synthetic logs.",
)
COMMANDS: tuple[Callable[..., None], ...] = (
    data.prepare,
    train.train,
    build.build,
    build.sign,
    build.evaluate,
    comparing.compare,
    exporting.export,
    serving.serve,
    serving.query,
    serving.reload,
    demo.demo,
    doctor.doctor,
    reproducing.reproduce,
    tuning.tune,
)
for command in COMMANDS:
    app.command(cls=TrainHelp if command is train.train else StrictCommand)(command)
app.add_typer(benchmarking.bench, name="bench")
for own in (planning.plan_experiment, report.report_experiment, guarding.guard_experiment, replay):
    verdict.experiment.command(own.__name__.partition("_")[0], cls=StrictCommand)(own)
app.add_typer(verdict.experiment, name="experiment")
app.add_typer(events.events, name="events")
app.add_typer(keys.keys, name="keys")


@app.callback(invoke_without_command=True)
def version(show: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    if show:
        out.print(__version__)
        raise typer.Exit


def main() -> None:
    """Runs a command; a user's mistake is one sentence, not a traceback."""
    # `serve` sets its own level; the answer of any other command stands alone on the terminal
    configure_logging("warning")
    try:
        # the same in usage lines for `recall` and `python -m recall`
        app(prog_name="recall")
    except (RecallError, ValueError, OSError) as error:
        err.print(f"recall: {error}", markup=False)
        sys.exit(2)


if __name__ == "__main__":
    main()
