"""The releases of an HTTP process follow those of the engine process, in whatever order the news come."""

import asyncio

import numpy as np
import pytest

from model.catalogue import Catalogue, IdMap
from model.records import ServingPlan
from service.engine.arms import ArmSlot, Release
from service.engine.releases import Canary, CanaryTerms, ReleaseState
from service.errors import ConfigurationError
from service.remote.follower import Follower, canary_state, follow_state

TERMS = CanaryTerms(0.2)


def release(bundle):
    catalogue = Catalogue(IdMap.of([1]), IdMap.of([1]), np.ones(1, dtype=np.int64))
    return Release("recgpt", "recgpt", bundle, catalogue, ServingPlan(), "p", 5, None)


def state(bundle, canary=None, has_cache=False):
    own = Canary(canary, f"/bundles/{canary}", TERMS, has_cache) if canary else None
    return ReleaseState("recgpt", bundle, f"/bundles/{bundle}", canary=own)


def slot(bundle="a", canary=None):
    slot = ArmSlot(release(bundle))
    if canary:
        slot.try_out(release(canary), 0.2)
    return slot


def bundles(slot):
    return slot.current.bundle, slot.trial and slot.trial.release.bundle


@pytest.mark.parametrize(
    ("before", "told", "prepared", "after"),
    [
        (("a", None), state("a"), None, ("a", None)),
        (("a", None), state("b"), "b", ("b", None)),
        (("a", None), state("b"), None, ("a", None)),
        (("a", None), state("b"), "c", ("a", None)),
        (("a", None), state("a", "b"), "b", ("a", "b")),
        (("a", None), state("a", "b"), None, ("a", None)),
        (("a", "b"), state("a", "b"), None, ("a", "b")),
        (("a", "b"), state("b"), None, ("b", None)),
        (("a", "b"), state("a"), None, ("a", None)),
        (("a", "b"), state("a", "c"), "c", ("a", "c")),
        (("a", "b"), state("c"), "c", ("c", None)),
    ],
)
def test_a_slot_has_what_its_state_says_as_far_as_it_is_there(before, told, prepared, after):
    own = slot(*before)
    follow_state(own, told, release(prepared) if prepared else None)
    assert bundles(own) == after


def test_a_canary_takes_its_share_of_the_users():
    own = slot()
    follow_state(own, state("a", "b"), release("b"))
    assert own.trial.share == TERMS.share


def test_the_canary_of_a_state_is_read_like_any_bundle():
    assert canary_state(state("a", "b", has_cache=True)) == ReleaseState("recgpt", "b", "/bundles/b", has_cache=True)
    assert canary_state(state("a")) is None


class Link:
    """The engine process as it answers: what it serves now."""

    def __init__(self, *states):
        self.states, self.num_asked = states, 0

    async def releases(self):
        self.num_asked += 1
        await asyncio.sleep(0)
        return self.states


class ReadingFollower(Follower):
    """Reads bundles without files; `missing` cannot be read."""

    missing = ""

    async def _read(self, told):
        if told.bundle == self.missing:
            raise ConfigurationError("it was replaced")
        return release(told.bundle)


def follower(*states, served="a"):
    return ReadingFollower(Link(*states), [state(served)], {"recgpt": release(served)})


def test_a_process_that_missed_a_change_reads_it_once_for_all_who_wait():
    own = follower(state("b"))

    async def scenario():
        await asyncio.gather(*(own.catch_up("recgpt", "a") for _ in range(5)))

    asyncio.run(scenario())
    assert own.arms["recgpt"].current.bundle == "b"
    assert own._link.num_asked == 1
    assert own.states() == (state("b"),)


def test_who_waits_for_a_bundle_that_is_not_served_any_more_waits_for_nothing():
    own = follower(served="b")
    asyncio.run(own.catch_up("recgpt", "a"))
    assert own._link.num_asked == 0


def test_what_is_prepared_is_served_without_asking():
    own = follower()
    asyncio.run(own.prepare(state("b")))
    asyncio.run(own.catch_up("recgpt", "a"))
    assert own.arms["recgpt"].current.bundle == "b"
    assert own._link.num_asked == 0


def test_a_canary_that_is_gone_leaves_the_bundle_in_force():
    own = follower(state("a"))
    asyncio.run(own.prepare(state("b")))
    own.follow([state("a", "b")])
    assert bundles(own.arms["recgpt"]) == ("a", "b")
    asyncio.run(own.catch_up("recgpt", "b"))
    assert bundles(own.arms["recgpt"]) == ("a", None)
    assert own.states() == (state("a"),)


def test_a_bundle_that_cannot_be_read_leaves_the_one_before():
    own = follower(state("b"))
    own.missing = "b"
    asyncio.run(own.catch_up("recgpt", "a"))
    assert own.arms["recgpt"].current.bundle == "a"
