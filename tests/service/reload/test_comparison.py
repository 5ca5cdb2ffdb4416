"""The lists of an offered bundle beside those in force, on recorded histories."""

import asyncio
import shutil
from contextlib import contextmanager
from dataclasses import replace

import pytest

from service.engine.arms import ArmSlot
from service.engine.loading import load_arm
from service.engine.releases import CanaryTerms, ReloadRequest
from service.errors import Overloaded, ReloadRefused
from service.reload.comparison import MIN_COMPARED, Likeness, ListComparison
from service.reload.reloader import Reloader

ARM, LIMIT_S = "main", 120


@pytest.fixture
def folder(bundles, tmp_path):
    """The folder of recgpt; comirec lies beside it as `other`."""
    shutil.copytree(bundles["comirec"], tmp_path / "other")
    return shutil.copytree(bundles["recgpt"], tmp_path / "own")


@pytest.fixture
def histories(known):
    return [known[n : n + 4] for n in range(MIN_COMPARED + 20)]


def run(folder, use, histories, floor=0.0):
    async def main():
        load = lambda name, path: load_arm(name, path, "cpu").release  # noqa: E731
        slot = ArmSlot(load(ARM, folder))
        reloader = Reloader({ARM: slot}, {ARM: folder}, load, ListComparison(lambda: histories, floor))
        try:
            return await use(slot, reloader)
        finally:
            await reloader.close()
            await slot.close()

    return asyncio.run(asyncio.wait_for(main(), LIMIT_S))


def test_nothing_is_recorded_while_lists_are_compared(folder, histories):
    moments, inside = [], []

    @contextmanager
    def quiet():
        inside.append(True)
        yield
        inside.pop()

    async def main():
        release = load_arm(ARM, folder, "cpu").release
        ask = release.engine.ask_block
        release.engine.ask_block = lambda block: moments.append(bool(inside)) or ask(block)
        try:
            return await ListComparison(lambda: histories, quiet=quiet).compare(release, release)
        finally:
            await release.engine.close()

    assert asyncio.run(asyncio.wait_for(main(), LIMIT_S)).overlap == 1
    assert moments
    assert all(moments)


async def lists_of(release, histories):
    asked = [release.engine.ask(release.request(None, history, limit=50)) for history in histories]
    return [{*result.merged.rows.tolist()} for result in await asyncio.gather(*asked)]


def test_the_overlap_is_that_of_lists_asked_one_by_one(folder, histories):
    async def use(slot, reloader):
        old = await lists_of(slot.current, histories)
        outcome = await reloader.reload(ReloadRequest(ARM, "other"))
        new = await lists_of(slot.current, histories)
        shares = [len(left & right) / 50 for left, right in zip(old, new, strict=True)]
        assert (outcome.overlap, outcome.compared) == (round(sum(shares) / len(shares), 4), len(histories))
        # it is told of the bundle that was offered, not of one that was there already
        unchanged = await reloader.reload(ReloadRequest(ARM, "other"))
        return outcome.overlap, unchanged.overlap

    overlap, unchanged = run(folder, use, histories)
    assert 0 < overlap < 1
    assert unchanged is None


def test_below_the_floor_it_is_refused_and_not_tried_on_users_either(folder, histories):
    async def use(slot, reloader):
        own = slot.current.bundle
        for canary in (None, CanaryTerms(0.5)):
            with pytest.raises(ReloadRefused, match=r"over 40 recorded histories; the floor is 95\.0%"):
                await reloader.reload(ReloadRequest(ARM, "other", canary=canary))
        assert (slot.current.bundle, slot.trial) == (own, None)
        assert "the floor is 95.0%" in reloader.states()[0].refusal

    run(folder, use, histories, floor=0.95)


def test_going_back_is_never_refused(folder, histories):
    kept = []

    async def use(slot, reloader):
        await reloader.reload(ReloadRequest(ARM, "other"))
        kept.extend(histories)
        return await reloader.reload(ReloadRequest(ARM, rollback=True))

    back = run(folder, use, kept, floor=0.95)
    assert (back.changed, back.overlap < 0.95) == (True, True)


def test_a_few_lists_refuse_nobody():
    few, enough = (Likeness("b", 0.1, count) for count in (MIN_COMPARED - 1, MIN_COMPARED))
    assert few.problem(0.5) is None
    assert "10.0% of their items" in enough.problem(0.5)
    assert enough.problem(0.1) is None


def test_histories_that_the_bundle_in_force_does_not_know_are_left_out(folder, histories):
    async def use(slot, reloader):
        return await reloader.reload(ReloadRequest(ARM, "other"))

    assert run(folder, use, [["nowhere"], *histories[:3]]).compared == 3
    assert run(folder, use, [["nowhere"]]).overlap is None


class Refusing:
    """An engine with too much to do."""

    async def ask_block(self, block):
        raise Overloaded("the recall queue is full")

    async def close(self): ...


def test_an_engine_with_too_much_to_do_is_no_reason_to_refuse(folder, histories):
    async def use(slot, reloader):
        await slot.put(replace(slot.current, engine=Refusing())).release.engine.close()
        return await reloader.reload(ReloadRequest(ARM, "other"))

    outcome = run(folder, use, histories, floor=0.95)
    assert (outcome.changed, outcome.overlap) == (True, None)
