"""The service on a device over HTTP: rates that climb to the bars, what each answered, and the CPU of each process.

Rates are fixed, so that runs compare; a curve ends after two that do not hold. On a machine with 12 cores or more there
are 12 HTTP processes and 4 generators, else 2 and 1.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from benchmarks.gpu_timing import Line, Setting, sizes_of
from recall.bench.bundles import make_bundle
from recall.bench.target import Target, serving
from recall.bench.traffic import Load
from recall.bench.trials import Trial, run_trial

P99_MS, BATCH_P99_MS = 15.0, 500.0
RATES = (500, 2_000, 4_000, 8_000, 10_000, 12_500, 16_000, 20_000)  # requests/s
BATCH_RATES = (16, 250, 500, 940, 1_250, 1_560)  # of 64 users: 60,000 users/s are 940
FEW = (20, 40)  # where the script is tried
USERS = 64
MANY_CORES, WORKERS, GENERATORS = 12, 12, 4
FIXED_RATE = 4_000.0  # of the comparison of numbers of HTTP processes


def has_many_cores() -> bool:
    return (os.cpu_count() or 1) >= MANY_CORES


@contextmanager
def served(setting: Setting, num_workers: int) -> Iterator[Target]:
    """The service on the device, without feedback or exposures to keep: the arm is pinned."""
    with tempfile.TemporaryDirectory() as folder:
        bundle = make_bundle(Path(folder), sizes_of(setting))
        options = ["--device", setting.device, "--http-workers", str(num_workers), "--request-timeout-ms", "2000"]
        with serving({"recgpt": bundle}, *options) as target:
            yield target


def http(setting: Setting) -> Iterator[Line]:
    num_workers, generators = (WORKERS, GENERATORS) if has_many_cores() else (2, 1)
    with served(setting, num_workers) as target:
        yield {"workers": num_workers, "generators": generators, "start_s": round(target.start_s, 1)}
        single = load_of(target, setting)
        # connections, caches of code and the clocks of cores: not measured
        run_trial(target, replace(single, rate=50.0), generators)
        batch = replace(single, path="/recall/batch", arm="recgpt", users_a_request=USERS, connections=256)
        yield from curve("single", target, single, FEW if setting.small else RATES, P99_MS, generators)
        rates = FEW if setting.small else BATCH_RATES
        yield from curve("batch", target, replace(batch, deadline_ms=1000.0), rates, BATCH_P99_MS, generators)


def workers(setting: Setting) -> Iterator[Line]:
    """One rate with several numbers of HTTP processes."""
    for num_workers in (1, 4, 8, 12) if has_many_cores() else (1, 2):
        with served(setting, num_workers) as target:
            load = replace(load_of(target, setting), rate=FIXED_RATE if has_many_cores() else FEW[0])
            generators = GENERATORS if has_many_cores() else 1
            run_trial(target, replace(load, rate=50.0), generators)
            yield {"workers": num_workers, **line_of(run_trial(target, load, generators))}


def load_of(target: Target, setting: Setting) -> Load:
    sizes = sizes_of(setting)
    return Load(
        host=target.host,
        port=target.port,
        path="/recall/recgpt",
        seconds=1.0 if setting.small else 3.0,
        num_items=sizes.num_items,
        history=sizes.max_length,
        deadline_ms=P99_MS,
        connections=1024,
    )


def curve(
    name: str, target: Target, load: Load, rates: tuple[int, ...], p99_ms: float, generators: int
) -> Iterator[Line]:
    failed = 0
    for number, rate in enumerate(rates):
        trial = run_trial(target, replace(load, rate=float(rate), seed=number), generators)
        holds = trial.measured.holds(p99_ms)
        yield {"curve": name, "holds": holds, **line_of(trial)}
        failed = 0 if holds else failed + 1
        if failed == 2:
            return


def line_of(trial: Trial) -> Line:
    """CPU is in microseconds a user, by part: the engine's loop, its other threads, all HTTP processes, generators."""
    measured = trial.measured
    return {
        "rate": trial.load.rate,
        "completed": measured.completed,
        "users_s": round(trial.users_s),
        "p50_ms": measured.p50_ms,
        "p99_ms": measured.p99_ms,
        "statuses": dict(measured.statuses),
        "lost": measured.lost,
        "lag_p99_ms": measured.lag_p99_ms,
        "stall_p99_ms": trial.stall_p99_ms,
        "cpu_us": dict(trial.cpu_us),
        "busy": dict(trial.busy),
        "batch_sizes": dict(trial.batch_sizes),
        "stages_ms": dict(trial.stages_ms),
    }
