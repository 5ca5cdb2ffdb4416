"""A canary in a slot: who gets it, what it counts, and how a trial ends."""

import asyncio

import numpy as np
import pytest

from model.catalogue import Catalogue, IdMap
from model.records import ServingPlan
from service.engine.arms import ArmSlot, Release, Trial, with_current
from service.errors import EngineFailed, StaleRelease

USERS = [f"u{number}" for number in range(4000)]


class Engine:
    def __init__(self):
        self.num_closed = 0

    async def close(self):
        self.num_closed += 1


def release(bundle):
    catalogue = Catalogue(IdMap.of([1]), IdMap.of([1]), np.ones(1, dtype=np.int64))
    return Release("recgpt", "recgpt", bundle, catalogue, ServingPlan(), "p", 5, Engine())


@pytest.fixture
def slot():
    return ArmSlot(release("a"))


def bundle_for(slot, user=None):
    with slot.lease(user) as leased:
        return leased.bundle


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_a_canary_answers_its_share_of_the_users(share):
    trial = Trial(release("b"), share)
    assert np.mean([trial.includes(user) for user in USERS]) == pytest.approx(share, abs=0.03)


def test_a_user_stays_with_the_canary_as_its_share_grows():
    few, many = Trial(release("b"), 0.1), Trial(release("b"), 0.4)
    assert all(many.includes(user) for user in USERS if few.includes(user))


def test_another_canary_is_tried_on_other_users():
    first, second = Trial(release("b"), 0.1), Trial(release("c"), 0.1)
    both = sum(first.includes(user) and second.includes(user) for user in USERS)
    assert both < 0.03 * len(USERS)


def test_a_name_that_is_no_unicode_has_its_place():
    assert Trial(release("b"), 1.0).includes("\ud800")


def test_without_a_user_the_bundle_in_force_answers(slot):
    slot.try_out(release("b"), 1.0)
    assert (bundle_for(slot), bundle_for(slot, "u")) == ("a", "b")


def test_bugs_count_against_a_canary_and_refusals_do_not(slot):
    slot.try_out(release("b"), 1.0)
    for error in (ValueError("bug"), EngineFailed("known"), asyncio.CancelledError()):
        with pytest.raises(type(error)), slot.lease("u"):
            raise error
    assert (slot.trial.num_uses, slot.trial.num_failed) == (3, 1)


def test_a_promoted_canary_is_in_force_and_the_old_one_is_still_there_to_drain(slot):
    slot.try_out(release("b"), 0.5)
    old = slot.promote()
    assert (old.release.bundle, slot.current.bundle, slot.trial) == ("a", "b", None)


def test_without_a_canary_there_is_nothing_to_promote(slot):
    with pytest.raises(ValueError, match="there is no canary"):
        slot.promote()


def test_a_trial_that_ends_leaves_who_leases_it_until_they_are_done(slot):
    slot.try_out(release("b"), 1.0)
    tenure = slot.lease("u")
    with tenure as leased:
        ended = slot.end_trial()
        assert bundle_for(slot, "u") == "a"
        assert leased.engine.num_closed == 0
    assert asyncio.run(slot.retire(ended)).engine.num_closed == 1
    assert slot.draining is None


def test_a_release_is_found_by_its_bundle(slot):
    slot.try_out(release("b"), 0.5)
    assert [slot.lease_of(bundle) and slot.lease_of(bundle).release.bundle for bundle in "abc"] == ["a", "b", None]


def test_closing_a_slot_closes_both_engines(slot):
    slot.try_out(release("b"), 0.5)
    engines = [own.engine for own in slot.releases]
    asyncio.run(slot.close())
    assert [engine.num_closed for engine in engines] == [1, 1]


def test_a_request_that_meets_an_old_release_is_asked_anew(slot):
    async def ask(leased):
        if leased.bundle == "a":
            slot.put(release("b"))
            raise StaleRelease("another is served")
        return leased.bundle

    assert asyncio.run(with_current(slot, ask)) == "b"


def test_a_canary_that_is_always_stale_does_not_fail_its_users(slot):
    slot.try_out(release("b"), 1.0)

    async def ask(leased):
        if leased.bundle == "b":
            raise StaleRelease("gone")
        return leased.bundle

    assert asyncio.run(with_current(slot, ask, "u")) == "a"
