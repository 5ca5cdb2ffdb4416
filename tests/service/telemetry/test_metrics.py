"""Counts of answers and batches, and that no id of a user or item is in any of them."""

import numpy as np
import pytest

from model.catalogue import Catalogue, IdMap
from model.merging import Merged
from model.records import ServingPlan
from service.engine.arms import Release
from service.engine.protocols import DropReason
from service.experiments.assignment import Assignment, Reason
from service.queries import RecallResult
from service.telemetry.collectors import AVERAGED
from service.telemetry.metrics import Metrics

CATALOGUE = Catalogue(IdMap.of(["secret-item", "b", "c", "d"]), IdMap.of(["secret-user"]), np.ones(4, dtype=np.int64))
ARM = Release("recgpt", "recgpt", "b1", CATALOGUE, ServingPlan(), "p", 5, None)


def result(rows=(1,), served="recgpt", degraded=()):
    listed = Merged(np.array(rows), np.ones(len(rows), dtype=np.float32), np.zeros(len(rows), dtype=np.int64))
    timings = {"history": 0.1, "queue": 0.2, "find": 3.0, "encode": 9.0, "total": 4.0}
    own = Assignment("recgpt", Reason.NO_EXPERIMENT, "c")
    return RecallResult("r", ARM, own, served, listed, [], "miss", list(degraded), timings)


@pytest.fixture
def metrics():
    return Metrics()


def value(metrics, name, **labels):
    return metrics.registry.get_sample_value(name, labels)


def test_an_answer_is_counted_by_what_served_it(metrics):
    metrics.answered(result())
    metrics.answered(result(served="fallback", degraded=["fallback", "filled"]))
    assert value(metrics, "recall_served_total", arm="recgpt", served="recgpt", cache="miss") == 1
    assert value(metrics, "recall_degraded_total", cause="filled") == 1


def test_steps_of_a_request_are_timed_and_those_of_its_batch_are_not_counted_twice(metrics):
    metrics.answered(result())
    metrics.engine("recgpt").batch_answered({"encode": 9.0})
    assert value(metrics, "recall_stage_seconds_sum", arm="recgpt", stage="find") == pytest.approx(0.003)
    assert value(metrics, "recall_stage_seconds_count", arm="recgpt", stage="encode") == 1


def test_coverage_is_that_of_the_bundle_in_force(metrics):
    metrics.answered(result(rows=(1, 2)))
    metrics.answered(result(rows=(3,)), is_canary=True)
    assert value(metrics, "recall_coverage", arm="recgpt") == 0.5


def test_batches_and_drops_are_those_of_their_arm(metrics):
    engine = metrics.engine("recgpt")
    engine.batch_started(8, 3)
    engine.work_dropped(DropReason.DEADLINE, 2)
    assert value(metrics, "recall_batch_size_sum", arm="recgpt") == 8
    assert value(metrics, "recall_waiting", arm="recgpt") == 3
    assert value(metrics, "recall_dropped_total", arm="recgpt", reason="deadline") == 2


def test_no_id_is_in_the_text(metrics):
    metrics.answered(result(rows=(1, 2, 3)))
    metrics.responded("/recall", 200)
    assert "secret" not in metrics.render()


def test_two_services_in_one_process_count_apart(metrics):
    metrics.responded("/recall", 200)
    assert value(Metrics(), "recall_requests_total", route="/recall", status="200") is None


def test_what_is_averaged_is_a_gauge_that_there_is(metrics):
    metrics.answered(result())
    metrics.overlap.add(0.5)
    own = {family.name: family.type for family in metrics.registry.collect()}
    assert all(own[name] == "gauge" for name in AVERAGED & own.keys())
    assert {"recall_coverage", "recall_overlap", "recall_waiting"} <= own.keys()
