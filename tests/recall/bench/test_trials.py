"""Load on a real service: trials, what its histograms say, and the search for a rate."""

from dataclasses import replace
from pathlib import Path

import pytest

from recall.bench.bundles import Sizes, make_bundle
from recall.bench.search import RateSearch
from recall.bench.target import serving
from recall.bench.traffic import Load, Measured
from recall.bench.trials import Trial, confirm, find_rate, run_trial, summary
from recall.benchmarking import HttpCommand, curves_of, under_load

QUICK = {"seconds": 1.0, "warmup_s": 0.3, "connections": 16, "drain_s": 10.0, "deadline_ms": 10_000.0}
FINE = Measured(
    offered=1.0,
    completed=1.0,
    p50_ms=1.0,
    p90_ms=1.0,
    p99_ms=2.0,
    p999_ms=3.0,
    max_ms=3.0,
    goodput=1.0,
    statuses={"200": 1000},
    lost=0,
    lag_p99_ms=0.1,
    cpu_us=10.0,
    received_bytes=1,
)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("bench"), Sizes(num_items=500, dim=16, num_layers=1, max_length=20))


@pytest.fixture(scope="module")
def target(bundle):
    with serving({"recgpt": bundle}, "--redis-url", "memory", "--request-timeout-ms", "10000") as running:
        yield running


def test_a_trial_says_what_was_answered_and_what_it_cost(target):
    trial = run_trial(target, Load(port=target.port, path="/recall/recgpt", rate=40.0, num_items=500, **QUICK))
    assert trial.measured.statuses.keys() == {"200"}
    assert trial.measured.lost == 0
    assert {"http", "compute", "generator"} <= trial.cpu_us.keys()
    assert min(trial.cpu_us["http"], trial.cpu_us["compute"]) > 0
    assert {"encode", "search", "merge", "queue", "total"} <= trial.stages_ms.keys()
    assert sum(trial.batch_sizes.values()) > 0
    assert "busy" in trial.binding or "none" in trial.binding
    assert trial.stall_p99_ms > 0


def test_the_consumer_of_events_is_no_part_of_redis(bundle):
    with serving({"recgpt": bundle}) as running:
        assert running.usage().keys() == {"http", "compute", "redis", "events"}


def test_several_generators_make_one_trial(target):
    load = Load(port=target.port, path="/recall/recgpt", rate=40.0, num_items=500, **QUICK)
    trial = run_trial(target, load, generators=2)
    assert trial.measured.statuses.keys() == {"200"}
    assert 15 < trial.measured.statuses["200"] < 75  # Poisson around 40
    assert trial.measured.offered == 40.0


def test_a_generator_that_breaks_says_why(target):
    with pytest.raises(RuntimeError, match="the load generator failed"):
        run_trial(target, Load(port=1, **QUICK))


def test_batches_of_users_are_counted_as_users(target):
    load = Load(
        port=target.port, path="/recall/batch", arm="recgpt", rate=20.0, num_items=500, users_a_request=4, **QUICK
    )
    trial = run_trial(target, load)
    assert trial.measured.statuses.keys() == {"200"}
    assert trial.users_s == pytest.approx(4 * trial.measured.completed)


def test_a_batch_with_refused_members_is_not_answered(target):
    """Longer lists than the service takes: each member is a problem, the batch a 200."""
    load = Load(port=target.port, path="/recall/batch", rate=20.0, top_n=5000, users_a_request=2, **QUICK)
    trial = run_trial(target, load)
    assert trial.measured.statuses.keys() == {"207"}
    assert not trial.measured.holds(10_000.0)


def test_it_is_known_what_the_service_holds_in_memory(target):
    assert target.memory_mb > 50
    assert target.start_s > 0


class Simulated:
    """A service that holds its p99 up to a rate, on a machine that stalls in the given trials (counted from 0)."""

    def __init__(self, limit, stalls=()):
        self.limit, self.stalls, self.loads = limit, stalls, []

    def __call__(self, load):
        stalled = len(self.loads) in self.stalls
        self.loads.append(load)
        p99 = 5.0 if load.rate <= self.limit and not stalled else 500.0
        return Trial(
            load=load,
            measured=replace(FINE, p99_ms=p99),
            cpu_us={"http": 200.0, "compute": 600.0, "generator": 50.0},
            busy={"http": 0.5},
            batch_sizes={},
            stages_ms={},
            stall_p99_ms=400.0 if stalled else 0.2,
        )


def search(service, start=100.0, said=None):
    say = said.append if said is not None else lambda _: None
    return find_rate(service, Load(port=1, rate=start), 30.0, RateSearch(start), say)


@pytest.mark.parametrize("limit", [60.0, 100.0, 999.0, 1500.0])
def test_the_highest_rate_is_found(limit):
    service = Simulated(limit)
    best, trials = search(service)
    assert limit / 1.1 <= best.load.rate <= limit
    assert len(trials) == len(service.loads) < 22


def test_where_nothing_holds_there_is_no_rate():
    best, trials = search(Simulated(0.0), start=8.0)
    assert best is None
    assert len(trials) < 14


@pytest.mark.parametrize("stalled", range(12))
def test_one_stall_does_not_end_the_search(stalled):
    quiet, _ = search(Simulated(1000.0))
    said = []
    best, _ = search(Simulated(1000.0, {stalled}), said=said)
    assert best.load.rate == quiet.load.rate
    assert any("did not hold; once more" in line for line in said)


def test_two_failures_in_a_row_do():
    best, _ = search(Simulated(1000.0, {1, 2}))
    assert best.load.rate < 160.0


def test_a_step_that_is_repeated_sends_other_requests():
    service = Simulated(1000.0, {1})
    search(service)
    assert service.loads[1].rate == service.loads[2].rate
    assert service.loads[1].seed != service.loads[2].seed


def test_each_rate_is_told_with_its_cost_and_the_stall():
    said = []
    search(Simulated(1000.0), said=said)
    assert "CPU us a user: service 800, generator 50; idle timer late by 0.2 ms (p99)" in said[0]


def test_a_service_of_others_has_no_cost_of_its_own():
    trial = replace(Simulated(10.0)(Load(port=1)), cpu_us={"generator": 50.0})
    assert "service not seen" in str(trial)


def test_a_rate_that_longer_trials_do_not_hold_is_lowered():
    rate, trials = confirm(Simulated(95.0), Load(port=1, rate=100.0), 30.0, runs=3)
    assert rate == pytest.approx(92.16)
    assert len(trials) == 3


def test_a_summary_has_the_spread_of_its_runs_and_the_worst_stall():
    service = Simulated(95.0, {1})
    told = summary([service(Load(port=1, rate=90.0)) for _ in range(3)])
    assert (told["runs"], told["p99_ms"], told["spread"]["p99_ms"]) == (3, 5.0, [5.0, 500.0])
    assert told["stall_p99_ms"] == 400.0


@pytest.mark.parametrize(
    "change",
    [{"lost": 1}, {"p99_ms": 31.0}, {"statuses": {"200": 990, "429": 10}}, {"statuses": {}}],
    ids=lambda change: next(iter(change)),
)
def test_what_does_not_hold(change):
    assert not replace(FINE, **change).holds(30.0)
    assert FINE.holds(30.0)


def test_curves_are_chosen_by_name():
    assert curves_of("batch, cached") == ("batch", "cached")
    with pytest.raises(ValueError, match="uncached, cached, batch, not warm"):
        curves_of("cached,warm")


@pytest.mark.parametrize("options", [HttpCommand(serve="--tls-cert a --tls-key b"), HttpCommand(ca=Path("ca.pem"))])
def test_https_is_measured_on_a_service_that_runs(options):
    with pytest.raises(ValueError, match="name it by --url with --ca"), under_load(options):
        pass
