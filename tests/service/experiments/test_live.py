"""The experiments' file while the service runs: swapped whole, or refused with the old one in force."""

import asyncio
import json
from functools import partial

import pytest

from model.folders.files import stamp_of
from service.errors import ConfigurationError
from service.experiments.assignment import Assigner, Reason
from service.experiments.live import LiveAssigner

ARMS = ("comirec", "recgpt")
USERS = [f"user-{n}" for n in range(500)]


def feature(coverage=1.0, **changes):
    experiment = {
        "key": "exp",
        "phase": "1",
        "hashAttribute": "user_id",
        "hashVersion": 2,
        "coverage": coverage,
        "variations": [*ARMS],
        "weights": [0.5, 0.5],
    }
    return json.dumps({"features": {"recall_arm": {"defaultValue": "comirec", "rules": [experiment | changes]}}})


@pytest.fixture
def path(tmp_path):
    file = tmp_path / "experiments.json"
    file.write_text(feature(0.01))
    return file


@pytest.fixture
def live(path):
    return LiveAssigner(lambda: Assigner.from_file(path, ARMS), partial(stamp_of, path))


def change(live, path, text):
    """Puts another file in the place, as an operator does, and has it looked at."""
    coming = path.with_suffix(".new")
    coming.write_text(text)
    coming.replace(path)
    asyncio.run(live.look())


def inside(live):
    return {user: live.assign(user).arm for user in USERS if live.assign(user).in_experiment}


def test_a_ramp_to_everybody_is_live_and_moves_nobody(live, path):
    before = inside(live)
    for coverage in (0.1, 0.5, 1):
        change(live, path, feature(coverage))
        assert before.items() <= inside(live).items()
        before = inside(live)
    assert (len(before), live.refusal, live.results) == (500, None, {"swapped": 3})


@pytest.mark.parametrize("text", ["", "{", feature(2), feature(coverage=0.01, weights=[0.4, 0.6])])
def test_a_refused_file_leaves_the_old_in_force_and_says_why(live, path, text):
    config, before = live.config, inside(live)
    change(live, path, text)
    assert (live.config, inside(live), live.results) == (config, before, {"refused": 1})
    assert live.refusal
    change(live, path, feature(0.02))
    assert (live.refusal, live.config != config) == (None, True)


def test_a_stopped_experiment_has_nobody(live, path):
    change(live, path, feature(0.01, active=False))
    assert {live.assign(user).reason for user in USERS} == {Reason.NO_EXPERIMENT}


def test_a_file_that_is_gone_leaves_the_old_in_force(live, path):
    before = inside(live)
    path.unlink()
    asyncio.run(live.look())
    assert (inside(live), "cannot be read" in live.refusal) == (before, True)


def test_a_file_is_read_when_it_changed_and_not_otherwise(live, path):
    for _ in range(3):
        asyncio.run(live.look())
    change(live, path, feature(0.01))
    assert live.results == {"unchanged": 1}


def test_an_unusable_file_is_refused_at_start(tmp_path):
    path = tmp_path / "none.json"
    with pytest.raises(ConfigurationError):
        LiveAssigner(lambda: Assigner.from_file(path, ARMS), partial(stamp_of, path))
