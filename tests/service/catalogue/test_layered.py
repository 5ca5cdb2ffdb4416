"""A layered mapping is the dict that the same changes lead to, and the mappings before it stay as they were."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.catalogue import layered
from service.catalogue.layered import Layered

STEPS = st.lists(st.dictionaries(st.integers(0, 6), st.none() | st.integers(1, 3), max_size=4), max_size=12)


@pytest.fixture(autouse=True)
def _folds_early(monkeypatch):
    monkeypatch.setattr(layered, "RECENT", 1)
    monkeypatch.setattr(layered, "MIDDLE", 3)


def replayed(steps):
    """The mappings after each step, with the dicts that they should be."""
    own, pairs = {}, [(Layered(), {})]
    for changes in steps:
        own = {**own, **changes}
        own = {key: value for key, value in own.items() if value is not None}
        pairs.append((pairs[-1][0].after(changes), dict(own)))
    return pairs


@given(STEPS)
def test_each_is_the_dict_of_its_changes(steps):
    for mapping, expected in replayed(steps):
        assert dict(mapping) == expected
        assert len(mapping) == len(expected)
        assert all(mapping.find(key) == expected.get(key) for key in range(7))


@given(STEPS, st.integers(0, 12))
def test_what_changed_since_an_older_one_is_told(steps, at):
    pairs = replayed(steps)
    (older, before), (newer, now) = pairs[min(at, len(steps))], pairs[-1]
    told = [*newer.changed_since(older)]
    assert len(told) == len({*told})
    assert {key for key, value in now.items() if before.get(key) != value} <= {*told} <= {*now}


def test_keys_stand_in_the_order_in_which_they_came():
    mapping = Layered()
    for key in (5, 3, 9, 1, 7, 2):
        mapping = mapping.after({key: key})
    assert [*mapping] == [5, 3, 9, 1, 7, 2]


def test_what_is_gone_is_no_key_before_and_after_it_is_folded_away():
    mapping = Layered().after({1: 1, 2: 2, 3: 3, 4: 4}).after({2: None})
    for _ in range(2):
        assert 2 not in mapping
        with pytest.raises(KeyError):
            mapping[2]
        mapping = mapping.after({5: 5, 6: 6, 7: 7})


def test_what_the_newest_step_changed_is_told_without_a_look_at_the_rest(monkeypatch):
    older = Layered().after({key: key for key in range(100)}).after({1: 7, 200: 1})
    newer = older.after({1: 8, 2: None, 3: 3, 300: 1})
    monkeypatch.setattr(Layered, "__iter__", None)
    assert [*newer.changed_since(older)] == [1, 300]
