"""A bundle in another's place: proven before, one at a time, back again, and nothing changed by a refusal."""

import asyncio
import shutil
import weakref
from contextlib import asynccontextmanager

import pytest

from service.engine.arms import ArmSlot
from service.engine.loading import EngineParts, load_arm
from service.engine.releases import ReleaseState, ReloadRequest
from service.errors import ReloadRefused, ReloadUnderWay, UnknownArm
from service.reload.collector import ReloadCollector
from service.reload.reloader import Reloader
from service.reload.watcher import Watcher
from service.stores.vector_cache import MemoryVectorCache
from tests.waiting import until

LIMIT_S = 120
ARM = "main"


@pytest.fixture
def folder(bundles, tmp_path):
    """The folder of the arm's own bundle, recgpt; comirec lies beside it under the name `other`."""
    shutil.copytree(bundles["comirec"], tmp_path / "other")
    return shutil.copytree(bundles["recgpt"], tmp_path / "own")


class Heard:
    """Another process that must know a bundle before it is served; refuses what it is told to."""

    def __init__(self, problem=None):
        self.problem, self.prepared, self.told = problem, [], []

    async def prepare(self, coming):
        self.prepared.append(coming.bundle)
        if self.problem:
            raise ReloadRefused(self.problem)

    async def tell(self, states):
        self.told.append(states[0])


@asynccontextmanager
async def serving(folder):
    """(slot, reloader) of one arm that serves the bundle in `folder`."""
    parts = EngineParts(cache=MemoryVectorCache())
    load = lambda name, path: load_arm(name, path, "cpu", parts).release  # noqa: E731
    slot = ArmSlot(load(ARM, folder))
    yield slot, Reloader({ARM: slot}, {ARM: folder}, load)
    await slot.close()


def run(folder, use):
    async def main():
        async with serving(folder) as (slot, reloader):
            return await use(slot, reloader)

    return asyncio.run(asyncio.wait_for(main(), LIMIT_S))


async def ask(slot, known):
    with slot.lease() as release:
        return (await release.engine.ask(release.request(None, known[:3], limit=5))).merged.rows.tolist()


def test_another_bundle_serves_and_the_old_one_comes_back(folder, known):
    async def use(slot, reloader):
        old, lists = slot.current.bundle, [await ask(slot, known)]
        there = await reloader.reload(ReloadRequest(ARM, "other"))
        lists.append(await ask(slot, known))
        back = await reloader.reload(ReloadRequest(ARM, rollback=True))
        lists.append(await ask(slot, known))
        new = there.bundle
        assert ((there.previous, there.changed), (back.bundle, back.previous)) == ((old, True), (old, new))
        return lists

    first, second, third = run(folder, use)
    assert first == third != second


def test_the_bundle_that_is_served_already_is_left_alone(folder):
    async def use(slot, reloader):
        release = slot.current
        outcome = await reloader.reload(ReloadRequest(ARM))
        assert (outcome.changed, outcome.bundle, outcome.previous) == (False, release.bundle, None)
        assert slot.current is release

    run(folder, use)


def test_a_second_reload_meanwhile_is_refused(folder):
    async def use(slot, reloader):
        first = asyncio.create_task(reloader.reload(ReloadRequest(ARM, "other")))
        await asyncio.sleep(0)
        with pytest.raises(ReloadUnderWay):
            await reloader.reload(ReloadRequest(ARM, "other"))
        assert (await first).changed

    run(folder, use)


def spoil(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (ReloadRequest(ARM, "nowhere"), "nowhere: "),
        (ReloadRequest(ARM, "other"), "weights.safetensors does not match its sha256"),
        (ReloadRequest(ARM, rollback=True), "no previous bundle"),
    ],
    ids=["no folder", "flipped bit", "nothing to go back to"],
)
def test_a_refused_bundle_leaves_the_old_one_in_force(folder, known, wanted, reason):
    spoil(folder.parent / "other" / "checkpoint" / "weights.safetensors")

    async def use(slot, reloader):
        before, release = await ask(slot, known), slot.current
        with pytest.raises(ReloadRefused, match=reason):
            await reloader.reload(wanted)
        [state] = reloader.states()
        assert (slot.current, await ask(slot, known), state.bundle) == (release, before, release.bundle)
        assert reason in state.refusal
        # a good one afterwards takes the reason away
        await reloader.reload(ReloadRequest(ARM))
        return reloader.states()[0].refusal, metrics(reloader)

    refusal, counted = run(folder, use)
    assert refusal is None
    assert counted["recall_reloads"] == {("main", "refused"): 1, ("main", "unchanged"): 1}


def metrics(reloader):
    return {
        family.name: {tuple(sample.labels.values()): sample.value for sample in family.samples}
        for family in ReloadCollector(reloader).collect()
    }


def test_what_breaks_while_loading_is_a_refusal(folder):
    def load(name, path):
        raise MemoryError("no room")

    async def use(slot, _):
        reloader = Reloader({ARM: slot}, {ARM: folder}, load)
        with pytest.raises(ReloadRefused, match="no room"):
            await reloader.reload(ReloadRequest(ARM, "other"))
        with pytest.raises(UnknownArm):
            await reloader.reload(ReloadRequest("nobody"))

    run(folder, use)


def test_a_folder_replaced_while_it_is_read_is_refused(folder):
    async def use(slot, reloader):
        swapped = Reloader({ARM: slot}, {ARM: folder}, lambda name, path: load_arm(name, folder, "cpu").release)
        with pytest.raises(ReloadRefused, match="replaced while it was read"):
            await swapped.reload(ReloadRequest(ARM, "other"))

    run(folder, use)


def test_going_back_to_a_folder_that_holds_another_bundle_now_is_refused(folder):
    async def use(slot, reloader):
        await reloader.reload(ReloadRequest(ARM, "other"))
        shutil.rmtree(folder)
        shutil.copytree(folder.parent / "other", folder)
        with pytest.raises(ReloadRefused, match="is gone"):
            await reloader.reload(ReloadRequest(ARM, rollback=True))

    run(folder, use)


def test_other_processes_hear_of_a_bundle_before_it_serves(folder):
    async def use(slot, reloader):
        heard, old = Heard(), slot.current.bundle
        reloader.subscribe(heard)
        new = (await reloader.reload(ReloadRequest(ARM, "other"))).bundle
        state = ReleaseState(ARM, new, str(folder.parent / "other"), old, has_cache=True)
        assert (heard.prepared, heard.told) == ([new], [state])

    run(folder, use)


def test_a_bundle_that_another_process_cannot_read_is_refused(folder):
    async def use(slot, reloader):
        heard, release = Heard("ids cannot be read"), slot.current
        reloader.subscribe(heard)
        with pytest.raises(ReloadRefused, match="ids cannot be read"):
            await reloader.reload(ReloadRequest(ARM, "other"))
        assert (slot.current, heard.told[-1].refusal) == (release, "ids cannot be read")

    run(folder, use)


def test_the_old_weights_are_freed(folder):
    async def use(slot, reloader):
        network = weakref.ref(slot.current.counters.encoder.network)
        await reloader.reload(ReloadRequest(ARM, "other"))
        return network()

    assert run(folder, use) is None


def test_a_watched_link_is_followed_and_a_refused_bundle_is_tried_once(folder):
    link = folder.parent / "current"
    link.symlink_to(folder)

    async def use(slot, reloader):
        watching = asyncio.create_task(Watcher(reloader, {ARM: link}).run(0.02))
        old = slot.current.bundle
        point(link, "other")
        await until(lambda: slot.current.bundle != old)
        spoil(folder / "golden.safetensors")
        point(link, "own")
        await until(lambda: reloader.states()[0].refusal)
        await asyncio.sleep(0.2)
        watching.cancel()
        return metrics(reloader)["recall_reloads"][ARM, "refused"]

    assert run(link, use) == 1


def point(link, name):
    new = link.with_name("new-link")
    new.symlink_to(name)
    new.rename(link)
