"""The verdict's error rates on simulated experiments: each row of docs/experiments.md with its criterion.

Users play a video a gamma-distributed number of times (negative binomial counts, heavier than Poisson). Every row has a
random stream of its own, so that one row alone gives the same figure. Exit status 1 where a criterion is not met.

    python -m benchmarks.verdict_study [--seed 0] [--only any_look,power]
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recall.reproduction.facts import machine, versions
from service.experiments.verdict.distributions import student_tails
from service.experiments.verdict.estimates import Effect, compare
from service.experiments.verdict.guardrails import GUARDRAILS
from service.experiments.verdict.judge import AnalysisPlan, judge
from service.experiments.verdict.power import Baseline, ErrorRates, users_per_arm
from service.experiments.verdict.sample_ratio import RED, chi_square_p, sequential_p
from service.experiments.verdict.statistics import Kind, MetricStatistics, Moments

RESULTS = Path(__file__).parent / "results" / "verdict_study.jsonl"
FAIR = np.array([0.5, 0.5])
NAMES = ("control", "treatment")
Row = dict[str, Any]
Rng = np.random.Generator


def row(name: str, figure: float, criterion: str, met: bool, **more: Any) -> Row:
    return {"row": name, "figure": round(float(figure), 5), "criterion": criterion, "met": bool(met)} | more


def plays(rng: Rng, shape: tuple[int, ...], mean: float = 4.0, dispersion: float = 1.0) -> NDArray[np.float64]:
    """Negative binomial: variance mean + mean^2 / dispersion."""
    return rng.negative_binomial(dispersion, dispersion / (dispersion + mean), shape).astype(float)


def effects_of(arms: Sequence[Moments], kind: Kind = Kind.MEAN) -> tuple[Effect, Effect]:
    """Absolute and relative difference of two arms, the control first."""
    control, treatment = arms
    return compare(control, treatment, kind)


def below(p: float | NDArray[np.float64], alpha: float) -> NDArray[np.bool_]:
    return np.asarray(p) < alpha


# --- sample ratio


def srm_false_alarms(rng: Rng) -> Iterator[Row]:
    """1,000 A/A experiments of 1e5 users: one look, and 200 looks."""
    runs, looks, users = 1_000, 200, 100_000
    first = rng.binomial(users // looks, 0.5, (runs, looks)).cumsum(1)
    counts = np.stack([first, users // looks * np.arange(1, looks + 1) - first], -1).astype(float)  # (runs, looks, 2)
    single, at_each = below(chi_square_p(counts[:, -1], FAIR), RED), below(chi_square_p(counts, FAIR), RED)
    sequential = below(sequential_p(counts, FAIR), RED)
    yield row("srm_one_look", single.sum(), "<= 5 alarms of 1,000 A/A", single.sum() <= 5)
    ever = sequential.any(1).sum()
    peeked = int(at_each.any(1).sum())
    yield row("srm_200_looks", ever, "<= 5 alarms of 1,000 A/A", ever <= 5, chi_square_at_each_look=peeked)


def srm_loss(rng: Rng) -> Iterator[Row]:
    """5 % of one arm's users are lost: 1,000 experiments of 1e5 users."""
    assigned = rng.binomial(100_000, 0.5, 1_000)
    counts = np.stack([100_000 - assigned, rng.binomial(assigned, 0.95)], -1).astype(float)
    for name, p in (("one_look", chi_square_p), ("any_time", sequential_p)):
        caught = below(p(counts, FAIR), RED).sum()
        yield row(f"srm_loss_{name}", caught, "1,000 of 1,000 caught", caught == 1_000)


# --- intervals


def ratio_false_positives(rng: Rng) -> Iterator[Row]:
    """Watch time a play, users with tastes of their own: 2,000 A/A of 1,000 users an arm."""
    runs, users = 2_000, 1_000
    by_user, by_play = np.empty(runs), np.empty(runs)
    for run in range(runs):
        counts = 1 + plays(rng, (2, users), 9.0).astype(int)
        scale = rng.lognormal(2.0, 0.5, (2, users))
        watched = [np.repeat(scale[arm], counts[arm]) * rng.exponential(1.0, counts[arm].sum()) for arm in (0, 1)]
        starts = [np.concatenate([[0], counts[arm].cumsum()[:-1]]) for arm in (0, 1)]
        arms = [
            Moments.of_users(np.add.reduceat(watched[arm], starts[arm]), counts[arm].astype(float)) for arm in (0, 1)
        ]
        by_user[run] = effects_of(arms, Kind.RATIO)[0].p_value()
        by_play[run] = effects_of([Moments.of_users(values) for values in watched])[0].p_value()
    rate, naive = (by_user < 0.05).mean(), round(float((by_play < 0.05).mean()), 4)
    yield row("ratio_false_positives", rate, ".037 to .064", 0.037 <= rate <= 0.064, plays_as_independent=naive)


def cuped(rng: Rng) -> Iterator[Row]:
    """The variance of 20,000 estimates with and without a covariate; coverage of the relative interval of a lift."""
    runs, users, lift = 20_000, 400, 0.05
    for rho in (0.3, 0.5, 0.7, 0.9):
        estimates, plain, covered = [], [], []
        for _ in range(20):
            values = rng.standard_normal((2, 2, runs // 20, users))  # arm, then y and x
            x, y = 5 + values[:, 1], 5 + rho * values[:, 1] + np.sqrt(1 - rho**2) * values[:, 0]
            y[1] += 5 * lift
            absolute, relative = effects_of([Moments.of_users(y[arm], x=x[arm]) for arm in (0, 1)])
            low, high = map(np.asarray, relative.interval(0.05))
            estimates.append(np.asarray(absolute.estimate))
            covered.append((low < lift) & (lift < high))
            plain.append(y[1].mean(-1) - y[0].mean(-1))
        left = np.var(estimates) / np.var(plain)
        off, met = left / (1 - rho**2) - 1, abs(left / (1 - rho**2) - 1) <= 0.05
        coverage = round(float(np.mean(covered)), 4)
        yield row(f"cuped_rho_{rho}", left, f"{1 - rho**2:.2f} +- 5 %", met, off=round(off, 4), coverage=coverage)


def any_look(rng: Rng) -> Iterator[Row]:
    """2,000 A/A experiments, looked at 40 times, 500 new users an arm and look."""
    runs, looks, users = 2_000, 40, 500
    sums = [[Moments.of_users(plays(rng, (runs, users))) for _ in NAMES] for _ in range(looks)]
    ever, peeked, total = np.zeros(runs, bool), np.zeros(runs, bool), sums[0]
    for look, arms in enumerate(sums):
        total = arms if look == 0 else [known + new for known, new in zip(total, arms, strict=True)]
        absolute, _ = effects_of(total)
        low, high = absolute.always_valid(0.05)
        ever |= (low > 0) | (high < 0)
        peeked |= student_tails(absolute.estimate / absolute.error, absolute.degrees) < 0.05
    fixed = round(float(peeked.mean()), 4)
    yield row("any_look_rate", ever.mean(), "<= .05", ever.mean() <= 0.05, fixed_interval_peeked_at=fixed)


# --- the whole verdict


def table(metric: str, arms: list[Moments], kind: Kind = Kind.MEAN) -> list[MetricStatistics]:
    return [
        MetricStatistics(variation=name, metric=metric, kind=kind, moments=moments)
        for name, moments in zip(NAMES, arms, strict=True)
    ]


PLAN = AnalysisPlan(weights=dict.fromkeys(NAMES, 0.5), control="control", primary="plays", final=True)


def power(rng: Rng) -> Iterator[Row]:
    """A planted +2 % with the users that the plan asks for, judged at the planned end: 500 experiments."""
    runs, lift, mean = 500, 0.02, 4.0
    baseline = Baseline(name="plays", mean=mean, deviation=np.sqrt(mean + mean**2))
    users = users_per_arm(baseline, lift, ErrorRates())
    wins = 0
    for _ in range(runs):
        arms = [Moments.of_users(plays(rng, (users,), mean * scale)) for scale in (1.0, 1 + lift)]
        wins += judge(table("plays", arms), PLAN).metrics[0].decision == "treatment better than control"
    yield row("power_of_2_percent", wins / runs, ".75 to .85", 0.75 <= wins / runs <= 0.85, users_an_arm=users)


FAILURES = {"error_rate": (0.005, 0.02), "fallback_rate": (0.01, 0.05), "empty_rate": (0.005, 0.02)}
FAILURES |= {"short_rate": (0.02, 0.06)}  # of a request, before and after the regression


def rail_arms(rng: Rng, metric: str, runs: int, regressed: bool) -> list[Moments]:
    """2,000 users an arm; failures of their requests, or the sum of their latencies."""
    requests = 1 + plays(rng, (2, runs, 2_000))
    if metric == "latency_ms":
        scale = np.array([10.0, 13.0 if regressed else 10.0])[:, None, None]
        values = rng.gamma(4 * requests, scale / 4)
    else:
        rates = np.array([FAILURES[metric][0], FAILURES[metric][regressed]])[:, None, None]
        values = rng.binomial(requests.astype(int), rates).astype(float)
    return [Moments.of_users(values[arm], requests[arm]) for arm in (0, 1)]


def one_run(moments: Moments, run: int) -> Moments:
    return Moments(**{name: float(getattr(moments, name)[run]) for name in Moments.__dataclass_fields__})


def guardrails(rng: Rng) -> Iterator[Row]:
    """A planted regression of each guard rail pauses the treatment, and none does not: 200 experiments each."""
    runs = 200
    primary = table("plays", [Moments.of_users(plays(rng, (2_000,))) for _ in NAMES])
    for rail in GUARDRAILS:
        paused = {}
        for regressed in (True, False):
            arms = rail_arms(rng, rail.metric, runs, regressed)
            verdicts = (
                judge([*primary, *table(rail.metric, [one_run(arm, run) for arm in arms], Kind.RATIO)], PLAN)
                for run in range(runs)
            )
            paused[regressed] = sum(verdict.pause == ("treatment",) for verdict in verdicts)
        met = paused[True] == runs and paused[False] == 0
        yield row(f"guardrail_{rail.metric}", paused[True], "200 of 200 paused, 0 of 200 A/A", met, aa=paused[False])


STUDIES: tuple[Callable[[Rng], Iterator[Row]], ...] = (
    srm_false_alarms,
    srm_loss,
    ratio_false_positives,
    cuped,
    any_look,
    power,
    guardrails,
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="studies, with commas; these are printed and not written")
    options = parser.parse_args()
    wanted = options.only.split(",") if options.only else [study.__name__ for study in STUDIES]
    facts = {"seed": options.seed, "date": f"{datetime.now(UTC):%Y-%m-%d}", "machine": machine("cpu")} | versions()
    lines = []
    for number, study in enumerate(STUDIES):
        if study.__name__ not in wanted:
            continue
        started = time.perf_counter()
        rows = list(study(np.random.default_rng([options.seed, number])))
        seconds = round(time.perf_counter() - started, 1)
        lines += [line | {"seconds": seconds} | facts for line in rows]
        print(*map(json.dumps, rows), sep="\n", flush=True)
    if not options.only:
        RESULTS.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    sys.exit(not all(line["met"] for line in lines))


if __name__ == "__main__":
    main()
