"""The recorder: one exposure a user and day whatever became of the request, sampled lists, forced answers apart."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from service.events.outbox import MemoryOutbox
from service.events.streams import EXPOSURES, FORCED, SHOWN
from service.experiments.assignment import Assignment, Reason
from service.experiments.exposure import Exposure, Shown, exposure_id
from service.experiments.recorder import ExposureRecorder, RecentKeys
from service.queries import Provenance

COUNTED = Assignment("recgpt", Reason.EXPERIMENT, "config", "exp", "1", "treatment")
DECODERS = {EXPOSURES: Exposure.from_json, FORCED: Exposure.from_json, SHOWN: Shown.from_json}


@dataclass(frozen=True)
class Query:
    user: str | None = "user"
    session: str | None = None
    request_id: str = "r1"
    top_n: int = 3

    def unit_by(self, attribute):
        return self.session if attribute == "session_id" else self.user


@dataclass(frozen=True)
class Result:
    item_ids: np.ndarray
    scores: np.ndarray
    bundle: str = "b1"
    provenance: Provenance | None = None
    timings_ms: Mapping[str, float] = field(default_factory=lambda: {"find": 1.0, "total": 2.5})


RESULT = Result(np.array([7, 3]), np.array([0.5, 0.25], np.float32))


def kept(outbox, stream):
    return [entry.event for entry in asyncio.run(outbox.reader(stream, DECODERS[stream]).read()).events]


@pytest.fixture
def outbox():
    return MemoryOutbox(1_000_000)


@pytest.mark.parametrize(
    ("served", "result", "bundle"),
    [("recgpt", RESULT, "b1"), ("fallback", RESULT, "b1"), ("429", None, ""), ("504", None, "")],
)
def test_exposure_follows_the_assignment_whatever_was_served(outbox, served, result, bundle):
    ExposureRecorder(outbox).record(Query(), COUNTED, served, result)
    [exposure] = kept(outbox, EXPOSURES)
    assert exposure == Exposure(
        id=exposure_id(COUNTED, "user", exposure.ts_ms),
        experiment="exp",
        phase="1",
        config="config",
        unit="user",
        variation="treatment",
        assigned="recgpt",
        served=served,
        reason="experiment",
        request_id="r1",
        bundle=bundle,
        ts_ms=exposure.ts_ms,
    )


@pytest.mark.parametrize("reason", [reason for reason in Reason if reason is not Reason.EXPERIMENT])
def test_requests_outside_the_experiment_are_no_exposures(outbox, reason):
    ExposureRecorder(outbox, 1).record(Query(), replace(COUNTED, reason=reason), "recgpt", RESULT)
    assert kept(outbox, EXPOSURES) + kept(outbox, SHOWN) == []


def test_request_of_nobody_is_no_exposure(outbox):
    ExposureRecorder(outbox, 1).record(Query(user=None), COUNTED, "recgpt", RESULT)
    assert kept(outbox, EXPOSURES) + kept(outbox, SHOWN) == []


def test_forced_answers_are_kept_apart_each_by_itself(outbox):
    recorder = ExposureRecorder(outbox, 1)
    for number in range(3):
        recorder.record(Query(request_id=f"r{number}"), replace(COUNTED, reason=Reason.FORCED), "recgpt", RESULT)
    assert [exposure.request_id for exposure in kept(outbox, FORCED)] == ["r0", "r1", "r2"]
    assert kept(outbox, EXPOSURES) + kept(outbox, SHOWN) == []


def test_a_hundred_thousand_requests_of_ten_thousand_users_are_ten_thousand_exposures(outbox):
    recorder = ExposureRecorder(outbox, 0)
    queries = [Query(user=str(number)) for number in range(10_000)]
    for _ in range(10):
        for query in queries:
            recorder.record(query, COUNTED, "recgpt", RESULT)
    assert outbox.written == 10_000


@pytest.mark.parametrize("change", [{"config": "other"}, {"phase": "2"}, {"variation": "control"}])
def test_other_settings_are_another_exposure(outbox, change):
    recorder = ExposureRecorder(outbox, 0)
    for assignment in (COUNTED, replace(COUNTED, **change), COUNTED):
        recorder.record(Query(), assignment, "recgpt", RESULT)
    assert len({exposure.id for exposure in kept(outbox, EXPOSURES)}) == outbox.written == 2


def test_dropped_exposure_is_tried_again_with_the_next_request(outbox):
    asyncio.run(outbox.close())
    recorder = ExposureRecorder(outbox, 0)
    for _ in range(3):
        recorder.record(Query(), COUNTED, "recgpt", RESULT)
    assert outbox.dropped == 3


def test_recent_keys_are_bounded_and_forget_the_oldest():
    keys = RecentKeys(100)
    for number in range(1000):
        keys.add(number)
        assert all(number - age in keys for age in range(min(number, 50)))
    assert len(keys._new) + len(keys._old) <= 100
    assert 0 not in keys


def test_sampled_list_has_items_and_scores_by_position(outbox):
    ExposureRecorder(outbox, 1).record(Query(), COUNTED, "recgpt", RESULT)
    [shown] = kept(outbox, SHOWN)
    assert (shown.items, shown.scores, shown.share) == ((7, 3), (0.5, 0.25), 1)
    assert (shown.unit, shown.variation, shown.request_id, shown.bundle) == ("user", "treatment", "r1", "b1")
    assert (shown.asked, shown.took_ms) == (3, 2.5)


def test_sample_is_the_share_asked_for_of_all_answers(outbox):
    recorder = ExposureRecorder(outbox, 0.1)
    words = Result(np.array(["a", "b"]), RESULT.scores)
    for _ in range(5000):
        recorder.record(Query(), COUNTED, "recgpt", words)
    assert 400 < outbox.written - 1 < 600
    assert kept(outbox, SHOWN)[0].items == ("a", "b")


def test_odd_unit_costs_only_itself(outbox):
    recorder = ExposureRecorder(outbox, 0)
    recorder.record(Query(user="\ud800"), COUNTED, "recgpt", RESULT)
    recorder.record(Query(), COUNTED, "recgpt", RESULT)
    assert ([exposure.unit for exposure in kept(outbox, EXPOSURES)], recorder.unwritable) == (["user"], 1)
