"""A short replay over HTTP: the experiment assigns, the consumer writes the log, the verdict judges it."""

from dataclasses import replace

import numpy as np
import pytest

from recall.replay.client import AppClient, ReplayError
from recall.replay.salts import treated
from recall.replay.study import digest_of
from recall.replay.trial import differing, judge_trial, run_trial
from recall.replay.world import Script, live

LOGGED = ["plays", "watch_time_s", "likes"]


@pytest.fixture(scope="module")
def trial(made_up, bundles, tmp_path_factory):
    """The simulator's rows and those of the event log; users ask one by one."""
    arms = {arm: bundles[arm] for arm in ("comirec", "recgpt")}
    script = Script(sessions=2, top_n=5, users_a_request=1)
    return run_trial(arms, made_up, script, tmp_path_factory.mktemp("trial"), "salt")


def test_the_log_has_what_everybody_did(trial):
    played, logged = trial
    assert logged.height == played.height == 120
    # watch time is sent in whole milliseconds
    assert differing(logged, {"control": played, "recgpt": played}, LOGGED) == 0
    assert played["plays"].sum() > 100
    assert played["disturbed"].sum() == 0


def test_a_lost_event_and_a_lost_user_are_seen(trial):
    played, logged = trial
    less = logged.with_columns(logged["plays"] - (logged["user_id"] == logged["user_id"][7]).cast(int))
    assert differing(less, {"control": played, "recgpt": played}, LOGGED) == 1
    assert differing(logged[1:], {"control": played, "recgpt": played}, LOGGED) == 1


def test_the_service_assigns_as_the_salts_do(trial, made_up):
    played, _ = trial
    expected = treated("salt", [str(user) for user in made_up.users.tolist()])
    assert ((played["arm"] == "recgpt").to_numpy() == expected).all()


def test_the_verdict_counts_everybody(trial, made_up):
    verdict = judge_trial(made_up, trial[1], "recgpt")
    assert sum(verdict.sample_ratio.users.values()) == 120
    assert [row.metric for row in verdict.metrics] == LOGGED
    assert verdict.metrics[0].variance_reduction is not None


@pytest.mark.parametrize("users_a_request", [1, 50])
def test_an_arm_that_is_named_is_everybodys(service, made_up, users_a_request):
    frame = live(service.url, made_up, Script(sessions=1, top_n=5, arm="comirec", users_a_request=users_a_request))
    assert frame["user"].to_list() == made_up.users.tolist()
    assert set(frame["arm"]) == {"comirec"}
    assert (frame["shown"] == 5).all()
    shuffled = frame.sample(fraction=1, shuffle=True, seed=1)
    assert digest_of([frame]) != digest_of([shuffled])


async def asked(url):
    async with AppClient(url, connections=1) as client:
        return await client.ask({"user_id": 1, "top_n": 0})


def test_a_refusal_is_one_sentence(service):
    import asyncio

    with pytest.raises(ReplayError, match="/recall is answered with 422"):
        asyncio.run(asked(service.url))


def test_a_service_that_takes_no_history_ends_the_replay(launch, arm_options, made_up):
    script = Script(sessions=1, top_n=5, arm="comirec", users_a_request=50)
    with launch(*arm_options, "--positive", "watch:0.5") as served:
        with pytest.raises(ReplayError, match=r"none of \d+ users has a history"):
            live(served.url, made_up, script)
        assert live(served.url, Watched(made_up), script)["disturbed"].sum() == 0


class Watched:
    """The same people, of whom the service is told how long they watched what they played."""

    def __init__(self, people):
        self._people = people

    def __getattr__(self, name):
        return getattr(self._people, name)

    def past(self, user):
        return replace(self._people.past(user), signals={"watch_time_ms": 600, "duration_ms": 1000})


def test_nobody_is_shown_an_item_twice(service, made_up):
    script = Script(sessions=3, top_n=20, arm="recgpt", users_a_request=50)
    frame = live(service.url, made_up, script)
    # the shown list ends with the catalogue of 300 items, not before
    assert np.all(frame["shown"].to_numpy() == 60)
