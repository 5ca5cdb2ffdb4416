"""Attributes of slots in chunks say what one table of them all would say, and full chunks are made once."""

import numpy as np
import pytest

from model.attributes.filters import canonical, parse_filter
from service.catalogue import slot_attributes
from service.catalogue.changes import PutItem
from service.catalogue.slot_attributes import SlotChunks
from service.catalogue.state import CatalogueState

NEW = 900_000


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch):
    monkeypatch.setattr(slot_attributes, "CHUNK", 3)


@pytest.fixture
def state(known):
    puts = [PutItem(NEW + n, {"author": 7_000 + n % 2, "language": "en"} if n % 3 else {}) for n in range(7)]
    return CatalogueState().after(enumerate([*puts, PutItem(known[4])], start=1))


def test_a_filter_is_asked_of_every_slot(tiny, state):
    own = SlotChunks(tiny.catalogue).of(state)
    assert [len(chunk) for chunk in own.chunks] == [3, 3, 2]
    flags = own.allowed(parse_filter(canonical({"author": 7_001})))
    assert flags[:7].tolist() == [False, True, False, False, False, True, False]


def test_a_slot_without_attributes_of_its_own_has_those_of_the_bundle(tiny, state):
    own, column = SlotChunks(tiny.catalogue).of(state), tiny.catalogue.attributes.column("author")
    assert own.of_slot("author", 7) == [column.values[code - 1] for code in column.of_row(5).tolist()]
    assert own.of_slot("author", 0) == []


def test_numbers_are_those_of_the_slots_asked_for(tiny, state):
    numbers = SlotChunks(tiny.catalogue).of(state).numbers("author", np.array([5, 0, 1]))
    assert numbers[0] == 7_001
    assert np.isnan(numbers[1])
    assert numbers[2] == 7_001


def test_full_chunks_are_made_once(tiny, state):
    chunks = SlotChunks(tiny.catalogue)
    first = chunks.of(state).chunks
    after = chunks.of(state.after([(99, PutItem(NEW + 9, {"author": 1}))])).chunks
    assert [a is b for a, b in zip(first, after, strict=True)] == [True, True, False]
