"""Watchers of new items are taught to each release, once, and again where its engine could not answer."""

import asyncio
from collections import Counter

import numpy as np
import pytest

from service.catalogue.changes import ItemWatched, PutItem
from service.catalogue.follower import CatalogueFollower, Learner
from service.catalogue.live import LiveItems
from service.catalogue.log import MemoryCatalogueLog
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
        for change in (PutItem(1), PutItem(2), *watched(1, 5, 6), *watched(2, 5)):
            await changes.append(change)
        await follower.catch_up()
        assert slots.learnt == {0: 2, 1: 1}
        assert slots.num_prepared == 1
        asked = slots.num_asked
        await follower.catch_up()
        assert slots.num_asked == asked
        await changes.append(*watched(2, 6))
        await follower.catch_up()
        assert slots.learnt == {0: 2, 1: 2}
        # nothing was put
        assert slots.num_prepared == 1

    asyncio.run(main())


def test_watchers_that_an_engine_could_not_answer_for_are_taught_later(learner):
    async def main():
        changes, slots, fails = MemoryCatalogueLog(), CountedSlots(), ["now"]
        follower = CatalogueFollower(changes, LiveState(), lambda: [learner(slots, fails)])
        for change in (PutItem(1), *watched(1, 5, 6)):
            await changes.append(change)
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
        for change in (PutItem(1), *watched(1, 5, 6)):
            await changes.append(change)
        await follower.catch_up()
        releases.append(CountedSlots())
        await follower.catch_up()
        assert [slots.learnt for slots in releases] == [{0: 2}, {0: 2}]

    asyncio.run(main())
