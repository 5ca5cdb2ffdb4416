"""Load on a running service, and where its time went: trials, the highest rate that holds, the resource that binds.

A trial is one `Load` from the generator's process, with what the service's processes spent meanwhile. Rates are
doubled until one fails, then halved in between; the one that is reported was held in several further trials, and its
figures are their medians.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import httpx
from prometheus_client.parser import text_string_to_metric_families

from recall.bench.generator import Load, Measured
from recall.bench.target import Target

BUSY = 0.85  # share of a core or of a thread from which on it binds
ANSWERED = 0.999  # of what was due, with 200; less is not held
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """One rate, held for some seconds."""

    load: Load
    measured: Measured
    cpu_us: Mapping[str, float]  # of a request, by part of the service: http, compute, redis; and the generator's
    busy: Mapping[str, float]  # share of the time: http thread, encode and search threads, redis, generator
    batch_sizes: Mapping[str, int]  # upper bound -> batches
    stages_ms: Mapping[str, float]  # mean

    @property
    def users_s(self) -> float:
        """Answered users a second."""
        return self.measured.completed * self.load.users_a_request

    def holds(self, p99_ms: float) -> bool:
        m = self.measured
        due = m.lost + sum(m.statuses.values())
        # a backlog shows in the p99: latencies count from when a request was due
        return m.statuses.get("200", 0) >= ANSWERED * due > 0 and not m.lost and m.p99_ms <= p99_ms

    @property
    def binding(self) -> str:
        """What is nearest to its limit; `none` when all have room (a queue then waits for the clock, not for work)."""
        name, share = max(self.busy.items(), key=lambda pair: pair[1])
        return f"{name} ({share:.0%} busy)" if share >= BUSY else f"none above {BUSY:.0%}; most is {name} ({share:.0%})"


def run_trial(target: Target, load: Load) -> Trial:
    """Raises RuntimeError with the generator's own words when it breaks."""
    before, usage_before = scrape(target.url), target.usage()
    # its address and its numbers are ours; a process of its own, so that the two do not share an interpreter
    command = [sys.executable, "-m", "recall.bench.generator", json.dumps(asdict(load))]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if ended.returncode:
        raise RuntimeError(f"the load generator failed: {ended.stderr[-500:]}")
    measured = Measured(**json.loads(ended.stdout.splitlines()[-1]))
    after, usage = scrape(target.url), target.usage()
    spent = {part: usage[part] - usage_before[part] for part in usage}
    wall = load.seconds + load.warmup_s
    asked = load.rate * wall * load.users_a_request
    stages = Stages.between(before, after)
    busy: dict[str, float] = {part: spent[part] / wall for part in ("http", "redis") if part in spent}
    busy |= {"encode": stages.seconds("encode") / wall, "search": stages.seconds("search", "merge") / wall}
    busy["generator"] = measured.cpu_us * load.rate / 1e6
    return Trial(
        load=load,
        measured=measured,
        cpu_us={part: round(seconds / asked * 1e6, 1) for part, seconds in spent.items()}
        | {"generator": round(measured.cpu_us / load.users_a_request, 1)},
        busy={part: round(share, 3) for part, share in busy.items()},
        batch_sizes=stages.batch_sizes,
        stages_ms={name: round(mean, 3) for name, mean in stages.means_ms.items()},
    )


def find_rate(target: Target, load: Load, p99_ms: float, say: Say = lambda _: None) -> tuple[Trial | None, list[Trial]]:
    """The highest rate whose p99 stays within `p99_ms`, and every trial on the way; None when not even the first holds.

    `load.rate` is where the search starts. Deterministic up to the machine's noise: seeds follow from the rates.
    """
    trials: list[Trial] = []

    def holds(rate: float) -> bool:
        trials.append(run_trial(target, replace(load, rate=rate, seed=load.seed + round(rate))))
        m = trials[-1].measured
        say(f"{rate:8,.0f}/s: {m.completed:,.0f} answered, p50 {m.p50_ms:.1f} ms, p99 {m.p99_ms:.1f} ms, lost {m.lost}")
        return trials[-1].holds(p99_ms)

    low, high = 0.0, load.rate
    while holds(high):
        low, high = high, high * 1.6
    while high > 1.08 * max(low, 1.0):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return (max((t for t in trials if t.holds(p99_ms)), key=lambda t: t.load.rate) if low else None), trials


def confirm(
    target: Target, load: Load, p99_ms: float, runs: int, say: Say = lambda _: None
) -> tuple[float, list[Trial]]:
    """A rate that at least half of `runs` longer trials hold: the one given, or up to five steps of 4 % below it."""
    trials: list[Trial] = []
    for step in range(6):
        rate = load.rate * 0.96**step
        trials = [
            run_trial(target, replace(load, rate=rate, seed=load.seed + 7919 * (step + 1) + run)) for run in range(runs)
        ]
        p99 = [round(trial.measured.p99_ms, 1) for trial in trials]
        say(f"{rate:8,.0f}/s in {runs} longer runs: p99 {p99} ms")
        if sum(trial.holds(p99_ms) for trial in trials) * 2 > runs:
            return rate, trials
    return 0.0, trials


def summary(trials: Sequence[Trial]) -> dict[str, object]:
    """Medians over trials of one rate, as JSON can say them."""

    def median(values: Iterator[float]) -> float:
        return round(statistics.median(values), 3)

    names = ("completed", "p50_ms", "p90_ms", "p99_ms", "p999_ms", "goodput", "lag_p99_ms")
    figures = {name: median(getattr(trial.measured, name) for trial in trials) for name in names}
    return {
        "rate": round(trials[0].load.rate, 1),
        "users_s": median(trial.users_s for trial in trials),
        "runs": len(trials),
        **figures,
        "lost": sum(trial.measured.lost for trial in trials),
        "cpu_us": {part: median(trial.cpu_us[part] for trial in trials) for part in trials[0].cpu_us},
        "busy": {part: median(trial.busy[part] for trial in trials) for part in trials[0].busy},
        "binding": trials[0].binding,
        "stages_ms": dict(trials[0].stages_ms),
        "batch_sizes": dict(trials[0].batch_sizes),
    }


@dataclass(frozen=True, slots=True)
class Stages:
    """What the service's own histograms gained."""

    sums: Mapping[str, float]  # stage -> seconds
    counts: Mapping[str, float]
    batch_sizes: Mapping[str, int]

    @classmethod
    def between(cls, before: "Scraped", after: "Scraped") -> "Stages":
        def gained(name: str, label: str) -> dict[str, float]:
            found: dict[str, float] = {}
            for key, value in after.items():
                if key[0] == name:
                    labels = dict(key[1])
                    found[labels[label]] = found.get(labels[label], 0.0) + value - before.get(key, 0.0)
            return found

        cumulative = sorted(gained("recall_batch_size_bucket", "le").items(), key=lambda pair: float(pair[0]))
        sizes, below = {}, 0.0
        for bound, count in cumulative:
            sizes[bound], below = round(count - below), count
        return cls(
            gained("recall_stage_seconds_sum", "stage"),
            gained("recall_stage_seconds_count", "stage"),
            {bound: count for bound, count in sizes.items() if count},
        )

    def seconds(self, *stages: str) -> float:
        return sum(self.sums.get(stage, 0.0) for stage in stages)

    @property
    def means_ms(self) -> dict[str, float]:
        return {stage: 1e3 * self.sums[stage] / count for stage, count in self.counts.items() if count}


Scraped = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(url: str) -> Scraped:
    """Every sample of GET /metrics."""
    text = httpx.get(f"{url}/metrics", timeout=10).text
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples}
