"""Load on a real service: trials, what its histograms say, and the search for a rate."""

from dataclasses import replace

import pytest

from recall.bench import load as loading
from recall.bench.bundles import Sizes, make_bundle
from recall.bench.generator import Load, Measured
from recall.bench.load import Trial, confirm, find_rate, run_trial, summary
from recall.bench.target import serving
from recall.benchmarking import curves_of

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
def target(tmp_path_factory):
    bundle = make_bundle(tmp_path_factory.mktemp("bench"), Sizes(num_items=500, dim=16, num_layers=1, max_length=20))
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
    assert not trial.holds(10_000.0)


def test_it_is_known_what_the_service_holds_in_memory(target):
    assert target.memory_mb > 50
    assert target.start_s > 0


def answering_up_to(limit, monkeypatch):
    """As if a service held its p99 up to a rate."""
    asked = []

    def run(_, load):
        asked.append(load.rate)
        p99 = 5.0 if load.rate <= limit else 500.0
        return Trial(
            load=load, measured=replace(FINE, p99_ms=p99), cpu_us={}, busy={"http": 0.5}, batch_sizes={}, stages_ms={}
        )

    monkeypatch.setattr(loading, "run_trial", run)
    return asked


@pytest.mark.parametrize("limit", [60.0, 100.0, 999.0, 1500.0])
def test_the_highest_rate_is_found(limit, monkeypatch):
    asked = answering_up_to(limit, monkeypatch)
    best, trials = find_rate(None, Load(port=1, rate=100.0), 30.0)
    assert limit / 1.1 <= best.load.rate <= limit
    assert len(trials) == len(asked) < 16


def test_where_nothing_holds_there_is_no_rate(monkeypatch):
    answering_up_to(0.0, monkeypatch)
    best, trials = find_rate(None, Load(port=1, rate=8.0), 30.0)
    assert best is None
    assert len(trials) < 12


def test_a_rate_that_longer_trials_do_not_hold_is_lowered(monkeypatch):
    answering_up_to(95.0, monkeypatch)
    rate, trials = confirm(None, Load(port=1, rate=100.0), 30.0, runs=3)
    assert rate == pytest.approx(92.16)
    assert len(trials) == 3
    assert summary(trials)["runs"] == 3


@pytest.mark.parametrize(
    "change",
    [{"lost": 1}, {"p99_ms": 31.0}, {"statuses": {"200": 990, "429": 10}}, {"statuses": {}}],
    ids=lambda change: next(iter(change)),
)
def test_what_does_not_hold(change):
    trial = Trial(load=Load(port=1), measured=replace(FINE, **change), cpu_us={}, busy={}, batch_sizes={}, stages_ms={})
    assert not trial.holds(30.0)
    assert replace(trial, measured=FINE).holds(30.0)


def test_curves_are_chosen_by_name():
    assert curves_of("batch, cached") == ("batch", "cached")
    with pytest.raises(ValueError, match="uncached, cached, batch, not warm"):
        curves_of("cached,warm")
