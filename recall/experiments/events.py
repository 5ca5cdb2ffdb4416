"""recall events: the event log of a running service, from Redis streams to Parquet files and to rows of users."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from recall.options import StrictCommand, check_writable, takes
from recall.terminal import err, last_line
from service.consumer.limits import DEFAULTS, ConsumerLimits

Option = typer.Option
events = typer.Typer(
    no_args_is_help=True,
    help="Keep and read the events of a running service.\n\nExposures, shown lists and feedback.",
    rich_markup_mode=None,
)
FOLDER = Path(".recall/events")


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumeCommand:
    """The options of `recall events consume`."""

    redis_url: Annotated[
        str, Option(help="Redis of the events, the service's --events-redis-url.", envvar="RECALL_EVENTS_REDIS_URL")
    ]
    output: Annotated[Path, Option(help="Folder of the event log; one consumer writes it.")] = FOLDER
    interval_s: Annotated[float, Option(min=0, help="Longest wait for a file; shorter = more and smaller files.")] = (
        DEFAULTS.interval_s
    )
    keep_days: Annotated[float, Option(min=0, help="Files older than this are deleted.")] = DEFAULTS.keep_days
    keep_gb: Annotated[float, Option(min=0, help="Beyond this size the oldest files are deleted.")] = (
        DEFAULTS.keep_bytes / 2**30
    )
    once: Annotated[bool, Option("--once", help="Write what is there now, and stop.")] = False


@events.command("consume", cls=StrictCommand)
@takes(ConsumeCommand)
def consume_events(options: ConsumeCommand) -> None:
    """Bring events from Redis to Parquet files until stopped, each into exactly one.

    What is written is removed from Redis. With --once the last line is JSON: the rows of each table.
    """
    from service.consumer.process import consume, open_consumer
    from service.telemetry.logging import configure_logging

    configure_logging("info")
    limits = ConsumerLimits(options.interval_s, options.keep_days, int(options.keep_gb * 2**30))
    if not options.once:
        err.print(f"events go to {options.output}; stop it with Ctrl-C")
        consume(options.redis_url, options.output, limits)
        return
    with open_consumer(options.redis_url, options.output, limits) as consumer:
        last_line({"events": str(options.output), "rows": consumer.run_once()})


@dataclass(frozen=True, slots=True, kw_only=True)
class UsersCommand:
    """The options of `recall events users`."""

    experiment: Annotated[str, Option(help="Key of the experiment.")]
    output: Annotated[Path, Option(help="Parquet file to write, for `recall experiment judge --statistics`.")]
    log: Annotated[Path, Option(help="Folder of the event log.")] = FOLDER
    phase: Annotated[str | None, Option(help="Phase of the experiment. Default: that of the newest exposure.")] = None


@events.command("users", cls=StrictCommand)
@takes(UsersCommand)
def write_users(options: UsersCommand) -> None:
    """One row a user of an experiment: its variation, and its actions from the first exposure on.

    Of an interleaving its actions on the items of each team, as METRIC:TEAM. Testers are left out.
    The last line is JSON: the users of each variation.
    """
    from service.consumer.credits import read_credits
    from service.consumer.users import read_experiment

    check_writable(options.output)
    log = read_experiment(options.log, options.experiment, options.phase)
    users = log.users_until()
    frame = read_credits(log).users_until() if log.is_interleaving else users.frame
    frame.write_parquet(options.output)
    if users.num_testers:
        err.print(f"{users.num_testers} testers are left out: they forced a variation")
    if users.num_moved:
        err.print(f"{users.num_moved} users met more than one variation of this phase; they count where they began")
    counts = frame.group_by("variation").len().sort("variation")
    last_line({"users": str(options.output), "phase": users.phase, "variations": dict(counts.iter_rows())})
