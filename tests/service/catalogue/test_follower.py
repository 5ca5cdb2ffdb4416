"""Watchers of new items are taught to each release, once, and again where its engine could not answer."""

import asyncio
from collections import Counter

import numpy as np
import pytest

from service.catalogue.changes import ItemWatched, PutItem
from service.catalogue.follower import BITE, FOLD_PAUSE_S, PAUSE_S, CatalogueFollower, Learner
from service.catalogue.live import LiveItems
from service.catalogue.log import READ_WHILE_SERVING, MemoryCatalogueLog
from service.catalogue.state import LiveState
from service.errors import EngineFailed

QUERIES = np.ones((1, 4), dtype=np.float32)


class CountedSlots:
    """Slots that count what they have learnt, and how often they are asked for it."""

    def __init__(self):
        self.learnt, self.num_asked, self.num_prepared = Counter(), 0, 0

    def learn(self, slot, queries):
        self.learnt[slot] += 1

    def num_learnt(self, slot):
        self.num_asked += 1
        return self.learnt[slot]

    def prepare(self):
        self.num_prepared += 1


@pytest.fixture
def learner(tiny):
    """learner(slots, fails): a release with those slots, whose engine fails while `fails` is not empty."""

    def make(slots, fails=()):
        async def embed(_):
            if fails:
                raise EngineFailed("not now")
            return QUERIES

        return Learner(LiveItems(tiny.catalogue), slots, embed)

    return make


def watched(item, *users):
    return [ItemWatched(item, user, [10_001]) for user in users]


def test_each_watcher_is_taught_once_and_nothing_is_looked_at_while_nothing_comes(learner):
    async def main():
        changes, slots = MemoryCatalogueLog(), CountedSlots()
        follower = CatalogueFollower(changes, LiveState(), lambda: [learner(slots)])
        await changes.append([PutItem(1), PutItem(2), *watched(1, 5, 6), *watched(2, 5)])
        await follower.catch_up()
        assert slots.learnt == {0: 2, 1: 1}
        assert slots.num_prepared == 1
        asked = slots.num_asked
        await follower.catch_up()
        assert slots.num_asked == asked
        await changes.append(watched(2, 6))
        await follower.catch_up()
        assert slots.learnt == {0: 2, 1: 2}
        # nothing was put
        assert slots.num_prepared == 1

    asyncio.run(main())


def test_watchers_that_an_engine_could_not_answer_for_are_taught_later(learner):
    async def main():
        changes, slots, fails = MemoryCatalogueLog(), CountedSlots(), ["now"]
        follower = CatalogueFollower(changes, LiveState(), lambda: [learner(slots, fails)])
        await changes.append([PutItem(1), *watched(1, 5, 6)])
        await follower.catch_up()
        assert not slots.learnt
        fails.clear()
        await follower.catch_up()
        assert slots.learnt == {0: 2}

    asyncio.run(main())


def test_a_release_just_loaded_is_taught_all_watchers(learner):
    async def main():
        changes, releases = MemoryCatalogueLog(), [CountedSlots()]
        follower = CatalogueFollower(changes, LiveState(), lambda: map(learner, releases))
        await changes.append([PutItem(1), *watched(1, 5, 6)])
        await follower.catch_up()
        releases.append(CountedSlots())
        await follower.catch_up()
        assert [slots.learnt for slots in releases] == [{0: 2}, {0: 2}]

    asyncio.run(main())


class Steps(LiveState):
    """A state that keeps the number of each that it became."""

    def __init__(self):
        super().__init__()
        self.numbers = []

    def become(self, state):
        self.numbers.append(state.number)
        super().become(state)


@pytest.fixture
def followed(monkeypatch):
    """followed(n): a follower takes n changes in; the numbers of its states, and the times for which it rested."""

    def run(count):
        rests, sleep, state = [], asyncio.sleep, Steps()

        async def rest(seconds):
            rests.append(seconds)
            await sleep(0)

        async def main():
            changes = MemoryCatalogueLog()
            await changes.append([PutItem(n) for n in range(count)])
            monkeypatch.setattr("service.catalogue.follower.asyncio.sleep", rest)
            running = asyncio.create_task(CatalogueFollower(changes, state).run())
            await state.wait_for(count, asyncio.get_running_loop().time() + 60)
            running.cancel()

        asyncio.run(main())
        return state.numbers, rests

    return run


def test_while_requests_are_answered_many_changes_are_taken_in_bite_by_bite(followed):
    numbers, rests = followed(3 * BITE + 1)
    assert numbers == [BITE, 2 * BITE, 3 * BITE, 3 * BITE + 1]
    assert len([own for own in rests if 0 < own <= PAUSE_S]) >= 3


def test_a_start_takes_all_in_at_once():
    async def main():
        changes, state = MemoryCatalogueLog(), Steps()
        await changes.append([PutItem(n) for n in range(3 * BITE)])
        await CatalogueFollower(changes, state).catch_up()
        assert state.numbers == [3 * BITE]

    asyncio.run(main())


def test_who_is_behind_does_not_rest(followed):
    _, rests = followed(READ_WHILE_SERVING)
    assert set(rests) <= {0, FOLD_PAUSE_S}
