"""Items that are put, deleted and watched while they are served: what is checked, and which watchers are kept."""

import asyncio
from dataclasses import dataclass

import numpy as np
import polars as pl
import pytest

from model.attributes.table import Attributes
from model.catalogue import Catalogue, IdMap
from model.records import ServingPlan
from service.catalogue.changes import MAX_WATCHERS, DeleteItem, ItemWatched, PutItem
from service.catalogue.intake import Intake
from service.catalogue.log import MemoryCatalogueLog
from service.catalogue.state import LiveState
from service.engine.arms import ArmSlot, Release
from service.errors import BadRequest, CatalogueBehind, CatalogueFull, EventsUnavailable, UnknownItem
from service.items import CHECKED_AT_ONCE, ItemEditor, check_item
from service.stores.history import MemoryHistory

NEW, DIM = 900, 4


def release(name="recgpt", ids=(10, 20, 30)):
    attributes = Attributes(pl.DataFrame({"author": [1] * len(ids)}))
    counts = np.ones(len(ids), dtype=np.int64)
    catalogue = Catalogue(IdMap.of(ids), IdMap.of([1]), counts, attributes=attributes)
    return Release(name, "recgpt", "b", catalogue, ServingPlan(), "p", 5, None, dim=DIM)


@dataclass
class Event:
    user: str = "u"
    item: int | str = NEW


class Editor:
    """An editor over logs in memory, whose changes are read at once."""

    def __init__(self, *releases, log=None):
        self.log, self.state, self.histories = log or MemoryCatalogueLog(), LiveState(), MemoryHistory()
        arms = {own.name: ArmSlot(own) for own in releases or (release(),)}
        self.editor = ItemEditor(self.log, self.state, arms, self.histories, Intake(1e9))

    def run(self, step):
        async def scenario():
            outcome = await step
            changes = await self.log.read(wait=False)
            self.state.advance(changes)
            return outcome, [change for _, change in changes]

        return asyncio.run(scenario())

    def watch(self, *events):
        return [change for event in events for change in self.run(self.editor.watched(event))[1]]

    def keep(self, user, *items):
        for at, item in enumerate(items):
            asyncio.run(self.histories.take(user, item, at))


@pytest.fixture
def editor():
    editor = Editor()
    editor.run(editor.editor.put([PutItem(NEW)]))
    editor.keep("u", 10, 20)
    return editor


def test_an_item_is_put_under_the_form_of_id_that_the_arms_have():
    editor = Editor()
    assert editor.run(editor.editor.put([PutItem(str(NEW))])) == ([1], [PutItem(NEW)])


@pytest.mark.parametrize(
    ("item", "sentence"),
    [
        (PutItem("x"), "id: those of the arm recgpt are integers"),
        (PutItem(NEW, {"autor": 1}), "attributes: no attribute 'autor'"),
        (PutItem(NEW, {"author": "1"}), "attributes: author: it holds integers"),
        (PutItem(NEW, None, {"recgpt": [1.0] * 3}), "vectors: the arm recgpt takes 4 finite numbers"),
        (PutItem(NEW, None, {"recgpt": [0.0] * 4}), "not all of them 0"),
        (PutItem(NEW, None, {"recgpt": [1e39, 0.0, 0.0, 0.0]}), "takes 4 finite numbers below 1e+15"),
        (PutItem(NEW, None, {"recgpt": [1e-50] * 4}), "not all of them 0"),
        (PutItem(NEW, None, {"recgpt": [1.0, 2.0, 3.0, float("nan")]}), "takes 4 finite numbers"),
        (PutItem(10, None, {"recgpt": [1.0] * 4}), "has a trained vector of this item; leave it out"),
    ],
)
def test_what_a_bundle_cannot_take_is_refused(item, sentence):
    with pytest.raises(BadRequest) as refused:
        check_item(item, release())
    assert sentence in str(refused.value)


@pytest.mark.parametrize("item", [PutItem(NEW), PutItem(10, {"author": 2}), PutItem(NEW, None, {"recgpt": [1.0] * 4})])
def test_what_a_bundle_can_take_is_taken(item):
    check_item(item, release())


def test_a_vector_for_an_arm_that_is_not_there_names_those_that_are():
    editor = Editor()
    [refused], kept = editor.run(editor.editor.put([PutItem(NEW, None, {"other": [1.0]})]))
    assert isinstance(refused, BadRequest)
    assert str(refused).startswith("vectors: no arm is called 'other'; there are recgpt")
    assert kept == []


def test_every_arm_has_to_take_an_item():
    editor = Editor(release(), release("words", ("a", "b")))
    [refused], kept = editor.run(editor.editor.put([PutItem(NEW)]))
    assert isinstance(refused, BadRequest)
    assert (str(refused), kept) == ("id: those of the arm words are text", [])


def test_a_bad_item_of_many_keeps_none_of_the_others_back():
    editor, count = Editor(), 3 * CHECKED_AT_ONCE
    bad = {0, CHECKED_AT_ONCE, count - 1}
    items = [PutItem("x" if n in bad else NEW + n) for n in range(count)]
    outcomes, kept = editor.run(editor.editor.put(items))
    assert [item.id for item in kept] == [NEW + n for n in range(count) if n not in bad]
    assert {n for n, own in enumerate(outcomes) if isinstance(own, BadRequest)} == bad
    assert [own for own in outcomes if isinstance(own, int)] == [*range(1, count - len(bad) + 1)]


def test_items_beyond_the_bound_are_refused_one_by_one(monkeypatch):
    monkeypatch.setattr("service.items.MAX_SLOTS", 2)
    editor = Editor()
    outcomes, kept = editor.run(editor.editor.put([PutItem(NEW + n) for n in range(3)]))
    assert outcomes[:2] == [1, 2]
    assert isinstance(outcomes[2], CatalogueFull)
    assert len(kept) == 2


def test_what_is_listed_can_be_deleted_once(editor):
    for item in (NEW, 10):
        assert editor.run(editor.editor.delete(item))[1] == [DeleteItem(item)]
        with pytest.raises(UnknownItem, match=f"no arm lists the item '{item}'"):
            editor.run(editor.editor.delete(item))


def test_a_path_names_an_integer_where_ids_are():
    assert Editor().editor.read_id("7") == 7
    assert Editor(release(ids=("7", "a"))).editor.read_id("7") == "7"
    with pytest.raises(BadRequest, match="those of this service are integers"):
        Editor().editor.read_id("clip")


def test_a_watcher_of_a_new_item_is_kept_with_what_was_watched_before(editor):
    assert editor.watch(Event()) == [ItemWatched(NEW, "u", [10, 20])]


def test_the_item_itself_is_no_part_of_what_was_watched_before(editor):
    editor.keep("u", str(NEW))
    assert editor.watch(Event(item=str(NEW))) == [ItemWatched(NEW, "u", [10, 20])]


@pytest.mark.parametrize("event", [Event(item=10), Event(user="nobody"), Event(item=901)], ids=str)
def test_events_that_teach_nothing_are_not_kept(editor, event):
    assert editor.watch(event) == []


def test_a_user_is_a_watcher_once(editor):
    assert len(editor.watch(Event(), Event(), Event())) == 1


def test_watchers_are_kept_up_to_a_bound(editor):
    users = [f"u{number}" for number in range(MAX_WATCHERS + 3)]
    for user in users:
        editor.keep(user, 10)
    assert len(editor.watch(*[Event(user) for user in users])) == MAX_WATCHERS


class LogAway(MemoryCatalogueLog):
    async def append(self, changes):
        raise EventsUnavailable("the change cannot be kept now")


def test_a_watcher_that_cannot_be_kept_fails_nobody(editor):
    away = ItemEditor(LogAway(), editor.state, editor.editor._arms, editor.histories, Intake(1))
    assert asyncio.run(away.watched(Event())) is None


def test_an_item_can_be_deleted_before_its_put_has_arrived():
    editor = Editor()

    async def scenario():
        await editor.editor.put([PutItem(NEW)])
        deletion = asyncio.create_task(editor.editor.delete(NEW))
        await asyncio.sleep(0)
        assert not deletion.done()
        editor.state.advance(await editor.log.read(wait=False))
        return await deletion

    assert asyncio.run(scenario()) == 2


def test_who_deletes_what_nobody_lists_is_not_kept_waiting_for_changes_that_were_read(editor):
    with pytest.raises(UnknownItem):
        asyncio.run(asyncio.wait_for(editor.editor.delete(NEW + 1), 1))


def test_a_process_that_lags_says_so_and_not_that_an_item_is_unknown(editor, monkeypatch):
    monkeypatch.setattr("service.items.CATCH_UP_S", 0.01)
    asyncio.run(editor.log.append([PutItem(NEW + 2)]))
    with pytest.raises(CatalogueBehind):
        asyncio.run(editor.editor.delete(NEW + 2))


def test_items_that_are_on_their_way_count_for_the_bound(monkeypatch):
    monkeypatch.setattr("service.items.MAX_SLOTS", bound := 3 * CHECKED_AT_ONCE)
    editor = Editor()

    async def scenario():
        batches = [[PutItem(NEW + 100 * n + m) for m in range(2 * CHECKED_AT_ONCE)] for n in range(4)]
        outcomes = await asyncio.gather(*map(editor.editor.put, batches))
        late = await editor.editor.put([PutItem(NEW + 999)])
        editor.state.advance(await editor.log.read(wait=False))
        return [own for batch in outcomes for own in batch], late

    outcomes, [late] = asyncio.run(scenario())
    assert len([own for own in outcomes if isinstance(own, int)]) == len(editor.state.current.slots) == bound
    assert isinstance(late, CatalogueFull)
