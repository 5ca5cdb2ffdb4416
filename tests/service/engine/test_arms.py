"""Releases and slots: ids become rows once, and a bundle takes the place of another while requests run."""

import asyncio

import numpy as np
import pytest

from model.attributes.filters import canonical
from model.rules import ListRules
from service.engine.arms import ArmSlot
from service.engine.loading import EngineParts, load_arm
from service.errors import EngineFailed
from service.experiments.assignment import Assigner
from service.lists.fill import complete
from service.pipeline import RecallPipeline
from service.queries import RecallQuery
from service.stores.history import MemoryHistory
from service.stores.vector_cache import MemoryVectorCache

LIMIT_S = 60
EVERYBODY = {"features": {"recall_arm": {"defaultValue": "main"}}}
NUM_CLIENTS, TOP_N = 12, 20


@pytest.fixture(scope="module")
def release(bundles):
    return load_arm("main", bundles["recgpt"], "cpu", EngineParts(cache=MemoryVectorCache())).release


def test_the_history_is_cut_to_the_window_and_excluded_as_a_whole(release, known):
    ids = known[: release.window + 5]
    request = release.request(None, ids, exclude=known[-2:], limit=7)
    assert request.history.items == tuple(range(6, release.window + 6))
    assert request.excluded == {*range(1, release.window + 6), len(known) - 1, len(known)}
    assert (request.limit, request.unknown, request.is_cold) == (7, (), False)


def test_unknown_ids_are_named_and_neither_encoded_nor_excluded(release, known):
    request = release.request("nobody", [known[0], -5, "010001"], exclude=[-6])
    assert (request.history.items, request.history.user) == ((1,), 0)
    assert (set(request.excluded), request.unknown) == ({1}, (-5, "010001"))


def test_a_filter_is_handed_on_and_changes_no_key(release, known):
    rules = ListRules(canonical({"author": 7_001}))
    request = release.request(None, known[:3], limit=5, rules=rules)
    assert request.rules is rules
    assert request.key == release.request(None, known[:3]).key


@pytest.mark.parametrize("ids", [[], [-5]])
def test_a_history_without_known_items_is_cold(release, ids):
    assert release.request(None, ids).is_cold


def test_the_key_holds_what_can_change_the_vectors(release, known):
    key = release.request(500, known[:3]).key
    assert key == release.request(500, known[:3], exclude=known[5:9], limit=9).key
    assert len({key, release.request(503, known[:3]).key, release.request(500, known[:4]).key}) == 3


def test_without_a_cache_there_is_no_key(bundles, known):
    assert load_arm("main", bundles["recgpt"], "cpu").release.request(None, known[:3]).key is None


class Clients:
    """Ask one question after the other until they are told to stop, and keep every answer."""

    def __init__(self, pipeline, known):
        self.pipeline, self.known, self.results, self.is_over = pipeline, known, [], False

    async def work(self, number):
        rng = np.random.default_rng(number)
        while not self.is_over:
            history = rng.choice(self.known, rng.integers(1, 30)).tolist()
            query = RecallQuery("id", history=history, top_n=TOP_N)
            self.results.append((history, await self.pipeline.recall(query)))

    async def more(self, count):
        wanted = len(self.results) + count
        while len(self.results) < wanted:  # noqa: ASYNC110
            await asyncio.sleep(0.001)


def expected(loaded, history):
    """The list of a bundle asked alone, without queue and cache."""
    request = loaded.release.request(None, history, limit=TOP_N)
    [result] = loaded.compute.run([request])
    return complete(loaded.release.items, result.merged, request).rows.tolist()


def test_a_bundle_takes_the_place_of_another_while_requests_run(bundles, known):
    async def main():
        parts = EngineParts(cache=MemoryVectorCache())
        old, new = (load_arm("main", bundles[kind], "cpu", parts) for kind in ("recgpt", "comirec"))
        slot = ArmSlot(old.release)
        pipeline = RecallPipeline({"main": slot}, Assigner.from_features(EVERYBODY, ["main"]), MemoryHistory())
        clients = Clients(pipeline, known)
        tasks = [asyncio.create_task(clients.work(n)) for n in range(NUM_CLIENTS)]
        await clients.more(100)
        swapping = asyncio.create_task(slot.swap(new.release))
        await asyncio.sleep(0)
        assert (slot.current, slot.draining) == (new.release, old.release)
        assert await swapping is old.release
        assert slot.draining is None
        num_before = len(clients.results) + NUM_CLIENTS  # those under way may have begun before
        await clients.more(100)
        with pytest.raises(EngineFailed):
            await old.release.engine.ask(old.release.request(None, known[:2], limit=5))
        clients.is_over = True
        await asyncio.gather(*tasks)
        await slot.close()
        return old, new, clients.results, num_before

    old, new, results, num_before = asyncio.run(asyncio.wait_for(main(), LIMIT_S))
    by_bundle = {loaded.release.bundle: loaded for loaded in (old, new)}
    assert {result.arm.bundle for _, result in results} == by_bundle.keys()
    assert {result.arm.bundle for _, result in results[num_before:]} == {new.release.bundle}
    assert [result.degraded for _, result in results if result.degraded] == []
    for history, result in results:
        assert result.listed.rows.tolist() == expected(by_bundle[result.arm.bundle], history)


def test_the_old_engine_is_closed_after_its_last_answer_and_the_swap_can_be_undone(bundles, known):
    async def main():
        parts = EngineParts(cache=MemoryVectorCache())
        first, second, again = (
            load_arm("main", bundles[kind], "cpu", parts).release for kind in ("recgpt", "comirec", "recgpt")
        )
        slot = ArmSlot(first)
        with slot.lease() as held:
            swapping = asyncio.create_task(slot.swap(second))
            undoing = asyncio.create_task(slot.swap(again))
            await asyncio.sleep(0.05)
            assert (slot.current, slot.draining, swapping.done()) == (second, first, False)
            assert len((await held.engine.ask(held.request(None, known[:3], limit=5))).merged.rows) == 5
        assert [await swapping, await undoing] == [first, second]
        with slot.lease() as release:
            rows = (await release.engine.ask(release.request(None, known[:3], limit=5))).merged.rows
        await slot.close()
        return slot.current is again, len(rows)

    assert asyncio.run(asyncio.wait_for(main(), LIMIT_S)) == (True, 5)


def test_a_release_that_is_never_left_is_closed_after_a_while(bundles, monkeypatch):
    monkeypatch.setattr("service.engine.arms.DRAIN_SECONDS", 0.05)

    async def main():
        first, second = (load_arm("main", bundles[kind], "cpu").release for kind in ("recgpt", "comirec"))
        slot = ArmSlot(first)
        with slot.lease():
            assert await slot.swap(second) is first
        await slot.close()

    asyncio.run(asyncio.wait_for(main(), LIMIT_S))
