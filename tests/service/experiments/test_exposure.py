"""Records of an experiment: one exposure a user, settings and day, and records that come back from their JSON."""

from dataclasses import replace

import orjson
import pytest

from service.experiments.assignment import Assignment, Reason
from service.experiments.exposure import DAY_MS, Exposure, Interleaved, Shown, exposure_id

OWN = Assignment("recgpt", Reason.EXPERIMENT, "config", "exp", "1", "control")
NOON = 20_000 * DAY_MS + DAY_MS // 2
SHARED = {"experiment": "e", "phase": "1", "config": "c", "unit": "u", "served": "recgpt", "bundle": "b", "ts_ms": 5}


def test_requests_of_a_day_are_one_exposure():
    first = exposure_id(OWN, "u", NOON)
    assert first == exposure_id(OWN, "u", NOON + DAY_MS // 2 - 1) == exposure_id(OWN, "u", NOON - DAY_MS // 2)


@pytest.mark.parametrize(
    "other",
    [
        (OWN, "v", NOON),
        (OWN, "u", NOON + DAY_MS),
        (replace(OWN, experiment="exp2"), "u", NOON),
        (replace(OWN, phase="2"), "u", NOON),
        (replace(OWN, config="other"), "u", NOON),
        (replace(OWN, variation="treatment"), "u", NOON),
    ],
    ids=["unit", "day", "experiment", "phase", "config", "variation"],
)
def test_what_makes_another_exposure(other):
    assert exposure_id(*other) != exposure_id(OWN, "u", NOON)


def test_what_was_served_does_not_make_another_exposure():
    assert exposure_id(replace(OWN, arm="fallback"), "u", NOON) == exposure_id(OWN, "u", NOON)


@pytest.mark.parametrize(
    "record",
    [
        Exposure(id="x", assigned="recgpt", reason="experiment", request_id="r", **SHARED),
        Shown(request_id="r", variation="0", share=0.1, items=(7, "x"), scores=(0.5, 0.25), **SHARED),
        Interleaved(request_id="r", teams=("a", "b"), picks=(0, 1), in_both=1, items=(7, "x"), **SHARED),
    ],
    ids=lambda record: type(record).__name__,
)
def test_a_record_comes_back_from_its_json(record):
    assert type(record).from_json(orjson.dumps(record)) == record
