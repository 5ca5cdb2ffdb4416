"""A bundle on trial: it answers its users, is promoted or goes, and nobody else notices."""

import asyncio
import shutil
from contextlib import asynccontextmanager

import pytest

from service.engine.arms import ArmSlot, with_current
from service.engine.loading import load_arm
from service.engine.releases import CanaryTerms, ReloadRequest
from service.errors import EngineFailed, ReloadRefused, ReloadUnderWay, StaleRelease
from service.reload import reloader as module
from service.reload.collector import ReloadCollector
from service.reload.reloader import Reloader

LIMIT_S = 120
ARM = "main"
HALF = CanaryTerms(0.5)
USERS = [f"user-{n}" for n in range(400)]


@pytest.fixture
def folder(bundles, tmp_path):
    """The folder of the arm's own bundle, recgpt; comirec lies beside it under the name `other`."""
    shutil.copytree(bundles["comirec"], tmp_path / "other")
    return shutil.copytree(bundles["recgpt"], tmp_path / "own")


@asynccontextmanager
async def serving(folder):
    load = lambda name, path: load_arm(name, path, "cpu").release  # noqa: E731
    slot = ArmSlot(load(ARM, folder))
    reloader = Reloader({ARM: slot}, {ARM: folder}, load)
    yield slot, reloader
    await reloader.close()
    await slot.close()


def run(folder, use):
    async def main():
        async with serving(folder) as (slot, reloader):
            return await use(slot, reloader)

    return asyncio.run(asyncio.wait_for(main(), LIMIT_S))


def bundles_of(slot, users=USERS):
    return [slot.lease(user).release.bundle for user in users]


def results(reloader):
    return {result.value: count for (_, result), count in reloader.results.items()}


def test_a_canary_answers_its_share_of_the_users_who_stay_with_it(folder):
    async def use(slot, reloader):
        own = slot.current.bundle
        outcome = await reloader.reload(ReloadRequest(ARM, "other", canary=HALF))
        assert (outcome.bundle, outcome.changed, outcome.canary) == (own, False, slot.trial.release.bundle)
        chosen = bundles_of(slot)
        assert chosen == bundles_of(slot)
        assert 150 < chosen.count(outcome.canary) < 250
        assert {slot.lease().release.bundle for _ in range(50)} == {own}
        families = {family.name: family for family in ReloadCollector(reloader).collect()}
        [sample] = families["recall_canary_share"].samples
        assert (sample.labels["bundle"], sample.value) == (outcome.canary, 0.5)

    run(folder, use)


def test_a_canary_is_promoted_and_the_old_bundle_can_come_back(folder):
    async def use(slot, reloader):
        own = slot.current.bundle
        canary = (await reloader.reload(ReloadRequest(ARM, "other", canary=HALF))).canary
        promoted = await reloader.reload(ReloadRequest(ARM, promote=True))
        assert (promoted.bundle, promoted.previous, promoted.changed, promoted.canary) == (canary, own, True, None)
        assert set(bundles_of(slot)) == {canary}
        back = await reloader.reload(ReloadRequest(ARM, rollback=True))
        assert (back.bundle, results(reloader)) == (own, {"on_trial": 1, "promoted": 1, "rolled_back": 1})

    run(folder, use)


@pytest.mark.parametrize("reason", ["its answers fail", None])
def test_the_end_of_a_trial_leaves_the_old_bundle_and_says_why(folder, reason):
    async def use(slot, reloader):
        release = slot.current
        await reloader.reload(ReloadRequest(ARM, "other", canary=HALF))
        canary = slot.trial.release
        ended = await reloader.reload(ReloadRequest(ARM, rollback=True, reason=reason))
        assert (ended.changed, ended.canary, slot.trial, slot.current) == (False, None, None, release)
        assert (reloader.states()[0].refusal, reloader.states()[0].canary) == (reason, None)
        with pytest.raises(EngineFailed):
            await canary.engine.ask(canary.request(None, (), limit=3))

    run(folder, use)


def test_a_verdict_that_comes_late_takes_nothing_back(folder):
    """Two processes judge: the second finds the canary gone, or promoted."""

    async def use(slot, reloader):
        await reloader.reload(ReloadRequest(ARM, "other", canary=HALF))
        promoted = (await reloader.reload(ReloadRequest(ARM, promote=True))).bundle
        late = await reloader.reload(ReloadRequest(ARM, rollback=True, reason="late"))
        assert (late.bundle, late.changed, slot.current.bundle) == (promoted, False, promoted)
        assert reloader.states()[0].refusal is None

    run(folder, use)


def test_meanwhile_no_other_bundle_is_taken(folder):
    async def use(slot, reloader):
        await reloader.reload(ReloadRequest(ARM, "other", canary=HALF))
        with pytest.raises(ReloadUnderWay, match="a canary is on trial"):
            await reloader.reload(ReloadRequest(ARM, "other"))
        await reloader.reload(ReloadRequest(ARM, rollback=True))
        with pytest.raises(ReloadRefused, match="no canary to promote"):
            await reloader.reload(ReloadRequest(ARM, promote=True))

    run(folder, use)


def test_its_time_promotes_a_canary_that_has_answered(folder, monkeypatch):
    monkeypatch.setattr(module, "PAUSE_S", 0.01)

    async def use(slot, reloader):
        canary = (await reloader.reload(ReloadRequest(ARM, "other", canary=CanaryTerms(0.5, seconds=0.01)))).canary
        await asyncio.sleep(0.1)
        assert slot.current.bundle != canary
        while slot.current.bundle != canary:
            for user in USERS:
                with slot.lease(user):
                    await asyncio.sleep(0)
            await asyncio.sleep(0.01)
        assert results(reloader) == {"on_trial": 1, "promoted": 1}

    run(folder, use)


def test_a_request_to_a_canary_that_went_is_asked_anew_of_the_bundle_in_force(folder):
    async def use(slot, reloader):
        await reloader.reload(ReloadRequest(ARM, "other", canary=CanaryTerms(1.0)))
        asked = []

        async def ask(release):
            asked.append(release.bundle)
            if len(asked) < 3:
                raise StaleRelease("gone")
            return release.bundle

        assert await with_current(slot, ask, "user") == slot.current.bundle
        assert asked == [slot.trial.release.bundle] * 2 + [slot.current.bundle]

    run(folder, use)


def test_bugs_of_a_canary_are_counted_and_a_caller_who_leaves_is_none(folder):
    async def use(slot, reloader):
        await reloader.reload(ReloadRequest(ARM, "other", canary=CanaryTerms(1.0)))
        for error in (TypeError("a bug"), asyncio.CancelledError(), StaleRelease("gone")):
            with pytest.raises(type(error)), slot.lease("user"):
                raise error
        return slot.trial.num_failed, slot.trial.num_uses

    assert run(folder, use) == (1, 3)
