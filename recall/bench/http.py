"""`recall bench http`: how many requests a second a service answers within a p99, and what binds it.

Four runs: histories that were never asked before, histories whose vectors are cached, batches of users in one
request, and single requests at half of the first rate.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial

from recall.bench.search import RateSearch, Say
from recall.bench.target import Target
from recall.bench.traffic import Load
from recall.bench.trials import RunTrial, Trial, confirm, find_rate, run_trial, summary

WARM_RATE = 400.0
CURVES = ("uncached", "cached", "batch")


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpBench:
    """The load that is put on the service, and the limit it has to keep to."""

    arm: str = "recgpt"
    num_items: int
    history: int = 50
    top_n: int = 100
    p99_ms: float = 30.0
    seconds: float = 4.0  # of a trial of the search; the last ones take twice as long
    runs: int = 3
    users_a_batch: int = 64
    cached_histories: int = 2000
    seed: int = 0
    only: tuple[str, ...] = CURVES
    generators: int = 1  # processes that share the rate
    start_rate: float = 400.0  # requests a second that the search begins with; a batch begins with a fiftieth

    def load(self, target: Target) -> Load:
        return Load(
            host=target.host,
            is_tls=target.is_tls,
            ca=str(target.ca) if target.ca else None,
            port=target.port,
            path=f"/recall/{self.arm}",
            seconds=self.seconds,
            num_items=self.num_items,
            history=self.history,
            top_n=self.top_n,
            deadline_ms=self.p99_ms,
            seed=self.seed,
        )


@dataclass(frozen=True)
class Curve:
    """Every trial of one way of asking, and the rate that was held."""

    name: str
    trials: list[Trial]
    held: list[Trial]  # at one rate; empty when none was

    @property
    def result(self) -> dict[str, object]:
        held = summary(self.held) if self.held else {"rate": 0.0, "runs": 0}
        return held | {"trials": [self._point(trial) for trial in self.trials]}

    @staticmethod
    def _point(trial: Trial) -> dict[str, float]:
        m = trial.measured
        return {
            "rate": round(trial.load.rate, 1),
            "p50_ms": m.p50_ms,
            "p99_ms": m.p99_ms,
            "stall_p99_ms": trial.stall_p99_ms,
        }


def bench_http(target: Target, bench: HttpBench, say: Say = lambda _: None) -> Iterator[Curve]:
    """Yields a curve as soon as it is measured."""
    single, run = bench.load(target), partial(run_trial, target, generators=bench.generators)
    if "uncached" in bench.only:
        say("histories that were never asked before")
        uncached = measure("uncached", run, replace(single, rate=bench.start_rate), bench, say)
        yield uncached
        if uncached.held:
            half = replace(single, rate=uncached.held[0].load.rate / 2, seconds=2 * bench.seconds)
            yield Curve("half rate", [], [run(replace(half, seed=91 + n)) for n in range(bench.runs)])
    if "cached" in bench.only:
        say("histories whose vectors are cached")
        cached = replace(single, distinct=bench.cached_histories)
        # each of them once, so that all are known
        run(replace(cached, rate=WARM_RATE, seconds=2 * bench.cached_histories / WARM_RATE))
        yield measure("cached", run, replace(cached, rate=2 * bench.start_rate), bench, say)
    if "batch" in bench.only:
        say(f"batches of {bench.users_a_batch} users")
        batch = replace(single, path="/recall/batch", arm=bench.arm, users_a_request=bench.users_a_batch)
        # a batch takes as long as its users together: what is asked of it is users a second, not a p99
        batch = replace(batch, connections=64, rate=bench.start_rate / 50, deadline_ms=1000.0)
        yield measure("batch", run, batch, replace(bench, p99_ms=500.0), say)


def measure(name: str, run: RunTrial, load: Load, bench: HttpBench, say: Say) -> Curve:
    """Looks for the rate from `load.rate` on, then holds it in longer trials."""
    best, trials = find_rate(run, load, bench.p99_ms, RateSearch(load.rate), say)
    if best is None:
        return Curve(name, trials, [])
    longer = replace(load, rate=best.load.rate, seconds=2 * bench.seconds)
    rate, held = confirm(run, longer, bench.p99_ms, bench.runs, say)
    return Curve(name, trials + held, held if rate else [])
