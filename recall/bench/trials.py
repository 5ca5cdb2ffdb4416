"""Load on a running service, and where its time went: trials, the highest rate that holds, the resource that binds.

A trial is one `Load` from the generator's process, with what the service's processes spent meanwhile and how late an
idle timer was. The rate that is reported was held in several further trials, and its figures are their medians.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace

import msgspec

from recall.bench.generator import READY
from recall.bench.search import RateSearch, Say
from recall.bench.stages import Stages, scrape
from recall.bench.stall import StallTimer
from recall.bench.target import Target
from recall.bench.traffic import Load, Measured, Sample

BUSY = 0.85  # share of a core or of a thread from which on it binds
GENERATOR = "generator"


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One rate, held for some seconds."""

    load: Load
    measured: Measured
    cpu_us: Mapping[str, float]  # of a user, by part of the service (Target.usage); and the generators'
    busy: Mapping[str, float]  # share of the time: http and engine loops, encode and search threads, redis, generators
    batch_sizes: Mapping[str, int]  # upper bound -> batches
    stages_ms: Mapping[str, float]  # mean
    stall_p99_ms: float  # how late an idle timer was meanwhile

    @property
    def users_s(self) -> float:
        """Answered users a second."""
        return self.measured.completed * self.load.users_a_request

    @property
    def service_us(self) -> float | None:
        """CPU microseconds that the service spent on a user; None for a service whose processes are not seen."""
        parts = [spent for part, spent in self.cpu_us.items() if part != GENERATOR]
        return sum(parts) if parts else None

    @property
    def binding(self) -> str:
        """The part closest to its limit; `none` when all have room (a queue then waits for the clock, not for work)."""
        name, share = max(self.busy.items(), key=lambda pair: pair[1])
        return f"{name} ({share:.0%} busy)" if share >= BUSY else f"none above {BUSY:.0%}; most is {name} ({share:.0%})"

    def __str__(self) -> str:
        m, service = self.measured, self.service_us
        spent = "not seen" if service is None else f"{service:,.0f}"
        return (
            f"{self.load.rate:8,.0f}/s: {m.completed:,.0f} answered, p50 {m.p50_ms:.1f} ms, p99 {m.p99_ms:.1f} ms, "
            f"lost {m.lost}; CPU us a user: service {spent}, generator {self.cpu_us[GENERATOR]:,.0f}; "
            f"idle timer late by {self.stall_p99_ms:.1f} ms (p99)"
        )


RunTrial = Callable[[Load], Trial]


def send(load: Load, generators: int = 1) -> Measured:
    """Runs generators in processes of their own, so that they share no interpreter with this one or each other.

    Raises RuntimeError with a generator's own words when it breaks.
    """
    with ExitStack() as stack:
        processes = [stack.enter_context(generator(share)) for share in load.shares(generators)]
        for process in processes:
            if process.stdout is None or process.stdout.readline() != READY:
                errors = process.communicate()[1].decode(errors="replace")
                raise RuntimeError(f"the load generator failed: {errors[-500:]}")
        # all begin together, once all have their requests
        samples = [sample_of(process) for process in [begun(process) for process in processes]]
    return Measured.of(load, samples)


@contextmanager
def generator(load: Load) -> Iterator["subprocess.Popen[bytes]"]:
    """A generator's process, ended with the block."""
    command = [sys.executable, "-m", "recall.bench.generator", json.dumps(asdict(load))]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe) as process:  # noqa: S603  (our own numbers)
        try:
            yield process
        finally:
            process.kill()


def begun(process: "subprocess.Popen[bytes]") -> "subprocess.Popen[bytes]":
    if process.stdin:
        process.stdin.write(b"\n")
        process.stdin.flush()
    return process


def sample_of(process: "subprocess.Popen[bytes]") -> Sample:
    """The outcome of a generator, once it has ended. Raises RuntimeError with its own words when it breaks."""
    output, errors = process.communicate()
    if process.returncode:
        raise RuntimeError(f"the load generator failed: {errors.decode(errors='replace')[-500:]}")
    return msgspec.msgpack.decode(output, type=Sample)


def run_trial(target: Target, load: Load, generators: int = 1) -> Trial:
    """Sends the load, and reads what the service spent meanwhile."""
    before, usage_before = scrape(target), target.usage()
    with StallTimer() as timer:
        measured = send(load, generators)
    after, usage = scrape(target), target.usage()
    spent = {part: usage[part] - usage_before.get(part, 0.0) for part in usage}
    # both readings span the warm-up too, so shares and costs are over the whole time and all that was asked in it
    wall = load.seconds + load.warmup_s
    asked = load.rate * wall * load.users_a_request
    stages = Stages.between(before, after)
    # threads of one: the event loops, each in a process of its own
    loops = {"http": target.num_http, "engine": 1, "redis": 1}
    busy: dict[str, float] = {part: spent[part] / wall / count for part, count in loops.items() if part in spent}
    busy |= {"encode": stages.seconds("encode") / wall, "search": stages.seconds("search", "merge") / wall}
    busy[GENERATOR] = measured.cpu_us * load.rate / 1e6 / generators
    return Trial(
        load=load,
        measured=measured,
        cpu_us={part: round(seconds / asked * 1e6, 1) for part, seconds in spent.items()}
        | {GENERATOR: round(measured.cpu_us / load.users_a_request, 1)},
        busy={part: round(share, 3) for part, share in busy.items()},
        batch_sizes=stages.batch_sizes,
        stages_ms={name: round(mean, 3) for name, mean in stages.means_ms.items()},
        stall_p99_ms=round(timer.p99_ms, 3),
    )


def find_rate(
    run: RunTrial, load: Load, p99_ms: float, search: RateSearch, say: Say = lambda _: None
) -> tuple[Trial | None, list[Trial]]:
    """The trial of the highest rate whose p99 stays within `p99_ms`, and every trial on the way; None when none holds.

    Deterministic up to the machine's noise: seeds follow from the rates and the number of the trial.
    """
    trials: list[Trial] = []

    def holds(rate: float) -> bool:
        # a step that is repeated sends other requests
        seed = load.seed + round(rate) + 7919 * len(trials)
        trials.append(run(replace(load, rate=rate, seed=seed)))
        say(str(trials[-1]))
        return trials[-1].measured.holds(p99_ms)

    highest = search.run(holds, say)
    held = [trial for trial in trials if trial.load.rate == highest and trial.measured.holds(p99_ms)]
    return (held[-1] if held else None), trials


def confirm(
    run: RunTrial, load: Load, p99_ms: float, runs: int, say: Say = lambda _: None
) -> tuple[float, list[Trial]]:
    """A rate that more than half of `runs` longer trials hold: the one given, or up to five steps of 4 % below it."""
    trials: list[Trial] = []
    for step in range(6):
        rate = load.rate * 0.96**step
        trials = [run(replace(load, rate=rate, seed=load.seed + 7919 * (step + 1) + number)) for number in range(runs)]
        p99 = [round(trial.measured.p99_ms, 1) for trial in trials]
        stalls = [round(trial.stall_p99_ms, 1) for trial in trials]
        say(f"{rate:8,.0f}/s in {runs} longer runs: p99 {p99} ms, idle timer late by {stalls} ms")
        if sum(trial.measured.holds(p99_ms) for trial in trials) * 2 > runs:
            return rate, trials
    return 0.0, trials


def summary(trials: Sequence[Trial]) -> dict[str, object]:
    """Medians over trials of one rate, with their spread and the worst stall, as JSON can say them."""

    def median(values: Iterator[float]) -> float:
        return round(statistics.median(values), 3)

    names = ("completed", "p50_ms", "p90_ms", "p99_ms", "p999_ms", "goodput", "lag_p99_ms")
    figures = {name: median(getattr(trial.measured, name) for trial in trials) for name in names}

    def spread(values: Iterator[float]) -> list[float]:
        measured = list(values)
        return [round(min(measured), 3), round(max(measured), 3)]

    return {
        "rate": round(trials[0].load.rate, 1),
        "users_s": median(trial.users_s for trial in trials),
        "runs": len(trials),
        **figures,
        # lowest and highest of the runs
        "spread": {
            "p99_ms": spread(trial.measured.p99_ms for trial in trials),
            "users_s": spread(trial.users_s for trial in trials),
        },
        "stall_p99_ms": max(trial.stall_p99_ms for trial in trials),
        "lost": sum(trial.measured.lost for trial in trials),
        "cpu_us": {part: median(trial.cpu_us[part] for trial in trials) for part in trials[0].cpu_us},
        "busy": {part: median(trial.busy[part] for trial in trials) for part in trials[0].busy},
        "binding": trials[0].binding,
        "stages_ms": dict(trials[0].stages_ms),
        "batch_sizes": dict(trials[0].batch_sizes),
    }
