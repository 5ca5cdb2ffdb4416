"""Changes become one state, whatever process reads them, and a state becomes a snapshot of a bundle's items."""

import asyncio
import sys
import time
from concurrent.futures import ThreadPoolExecutor, wait
from threading import Event

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.ids import marks_of
from service.catalogue import live
from service.catalogue.changes import MAX_WATCHERS, DeleteItem, ItemWatched, PutItem, decode, encode
from service.catalogue.live import BLOCK, LiveItems
from service.catalogue.log import MemoryCatalogueLog
from service.catalogue.state import CatalogueState, LiveState
from service.errors import CatalogueBehind

IDS = st.sampled_from([10_001, 10_008, 1, 2, 3])
CHANGES = st.lists(
    st.one_of(
        st.builds(PutItem, IDS, st.none() | st.just({"author": 7})),
        st.builds(DeleteItem, IDS),
        st.builds(ItemWatched, IDS, st.integers(1, 3), st.just([10_001])),
    ),
    max_size=30,
)


def numbered(changes, first=1):
    return [*enumerate(changes, start=first)]


@given(CHANGES)
def test_a_change_survives_its_bytes(changes):
    assert [decode(encode(change)) for change in changes] == changes


@given(CHANGES, st.integers(0, 30))
def test_changes_lead_to_the_same_state_however_they_are_cut(changes, cut):
    whole = CatalogueState().after(numbered(changes))
    parts = CatalogueState().after(numbered(changes[:cut])).after(numbered(changes[cut:], cut + 1))
    assert (parts.slots, parts.current, parts.hidden) == (whole.slots, whole.current, whole.hidden)
    assert np.array_equal(parts.alive, whole.alive)
    assert whole.number == parts.number == len(changes)


@given(CHANGES)
def test_what_may_be_listed_is_the_bundle_and_what_was_put_last(tiny, changes):
    live = LiveState()
    items = LiveItems(tiny.catalogue, live)
    live.advance(numbered(changes))
    expected = {*tiny.catalogue.items.ids.tolist()}
    for change in changes:
        if isinstance(change, PutItem):
            expected.add(change.id)
        elif isinstance(change, DeleteItem):
            expected.discard(change.id)
    snapshot = items.snapshot
    rows = np.array([row for row in range(1, snapshot.num_rows + 1) if snapshot.is_alive(row)])
    listed = snapshot.column(rows).tolist()
    assert len(listed) == len({*listed})
    assert {*listed} == expected
    assert all(snapshot.is_alive(row) or row <= snapshot.num_main for row in snapshot.rows_of(expected))


def test_watchers_are_kept_up_to_a_bound_and_stay_with_an_item_that_is_put_again():
    watched = [ItemWatched(1, user, [2]) for user in range(MAX_WATCHERS + 5)]
    state = CatalogueState().after(numbered([PutItem(1), *watched, PutItem(1)]))
    assert [len(slot.watchers) for slot in state.slots.values()] == [MAX_WATCHERS] * 2
    assert state.current == {1: 1}


@pytest.mark.parametrize("history", [[10_001, 7], ["clip-a", "clip-b"]])
def test_a_watcher_keeps_its_history_in_fewer_bytes(history):
    state = CatalogueState().after(numbered([PutItem(1), ItemWatched(1, "u", history)]))
    [watcher] = state.slots[0].watchers
    assert (watcher.user, watcher.history) == ("u", history)


def test_what_was_prepared_is_the_snapshot_once_its_state_is_the_current_one(tiny):
    made = []

    def slot_vectors(current):
        made.append(current.number)
        return np.zeros((len(current.slots), 4), dtype=np.float32)

    state = LiveState()
    items = LiveItems(tiny.catalogue, state, slot_vectors)
    before, following = items.snapshot, state.current.after(numbered([PutItem(1), DeleteItem(10_001)]))
    items.prepare(following)
    assert items.snapshot is before
    state.become(following)
    assert items.snapshot.state is following
    assert not items.snapshot.is_alive(1)
    # nothing was made anew for whoever asked
    assert made == [0, 2]


def test_many_deleted_rows_become_a_mask_that_changes_seldom(tiny, known):
    live = LiveState()
    items = LiveItems(tiny.catalogue, live)
    live.advance(numbered([DeleteItem(item) for item in known[: BLOCK + 3]]))
    snapshot = items.snapshot
    mask = items.main_mask(snapshot, None)
    assert (mask == (np.arange(len(known)) >= BLOCK)).all()
    assert snapshot.main.recent == (BLOCK + 1, BLOCK + 2, BLOCK + 3)
    live.advance([(1000, DeleteItem(known[BLOCK + 9]))])
    assert items.main_mask(items.snapshot, None) is mask
    english = items.main_mask(items.snapshot, '{"language":"en"}')
    assert english is items.main_mask(items.snapshot, '{"language":"en"}')
    assert not english[:BLOCK].any()


def test_a_snapshot_begun_earlier_does_not_take_the_place_of_a_newer_one(tiny):
    began, may_end, state = Event(), Event(), LiveState()
    vectors = iter([0.0, 1.0, 2.0])  # before the change, after it, and once a watcher is learnt

    def slot_vectors(current):
        value = next(vectors)
        if value == 1:
            began.set()
            may_end.wait(20)
        return np.full((len(current.slots), 4), value, dtype=np.float32)

    items = LiveItems(tiny.catalogue, state, slot_vectors)
    state.advance(numbered([PutItem(1)]))
    with ThreadPoolExecutor(2) as threads:
        threads.submit(lambda: items.snapshot)
        began.wait(20)
        refreshing = threads.submit(items.refresh)
        wait([refreshing], timeout=0.1)  # it ends before the other, or after it
        may_end.set()
    assert (items.snapshot.table.vectors == 2).all()


class SlowText(str):
    """A text at whose every look-up other threads may get their turn."""

    __slots__ = ()

    def __hash__(self):
        return super().__hash__()


def test_threads_may_ask_for_masks_while_others_are_dropped(tiny, monkeypatch):
    monkeypatch.setattr(live, "MAX_MASKS", 1)
    items, texts = LiveItems(tiny.catalogue), [SlowText('{"language":"en"}'), SlowText('{"language":"de"}')]

    def ask(text):
        expected = items.main_mask(items.snapshot, text)
        return all((items.main_mask(items.snapshot, text) == expected).all() for _ in range(8000))

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as threads:
            assert all(threads.map(ask, texts * 2))
    finally:
        sys.setswitchinterval(interval)


def test_who_waits_for_a_change_is_woken_or_told_that_it_is_not_here():
    async def main():
        live = LiveState()
        await live.wait_for(0, 0.0)
        waiting = asyncio.create_task(live.wait_for(2, time.monotonic() + 20))
        await asyncio.sleep(0)
        live.advance(numbered([PutItem(1)]))
        await asyncio.sleep(0)
        assert not waiting.done()
        live.advance([(2, PutItem(2))])
        await waiting
        with pytest.raises(CatalogueBehind, match="change 3 of the catalogue is not known here yet; 2 is"):
            await live.wait_for(3, time.monotonic() + 0.01)

    asyncio.run(main())


def test_the_log_of_a_process_hands_out_each_change_once_and_in_order():
    async def main():
        changes = MemoryCatalogueLog()
        assert await changes.append([PutItem(0), PutItem(1)]) == [1, 2]
        assert await changes.append([PutItem(2)]) == [3]
        assert await changes.read() == [(1, PutItem(0)), (2, PutItem(1)), (3, PutItem(2))]
        assert await changes.read(wait=False) == []
        assert await changes.read() == []

    asyncio.run(main())


def test_marks_mean_items_that_were_put_too(tiny):
    live = LiveState()
    items = LiveItems(tiny.catalogue, live)
    known = tiny.catalogue.items.ids.tolist()
    assert items.rows_of_marks(marks_of([known[4], 900_001])) == (5,)
    live.advance(numbered([PutItem(900_000), PutItem(900_001)]))
    assert items.rows_of_marks(marks_of([known[4], 900_001])) == (5, len(known) + 2)
    # put again it has another row, and both are left out; more slots are marked as they come
    live.advance(numbered([PutItem(900_001), PutItem(900_002)], first=3))
    assert items.rows_of_marks(marks_of(["900001", "900002"])) == tuple(len(known) + n for n in (2, 3, 4))
