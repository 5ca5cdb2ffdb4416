"""External ids at the edge, rows inside."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.catalogue import Catalogue, IdMap, Ragged

EXTREMES = [-(2**63), 2**63 - 1, 0, -1]
INTEGERS = st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, max_size=20)
NAMES = st.lists(st.text(st.characters(exclude_categories=["Cs"])), unique=True, max_size=20)


def small_catalogue(**changes):
    parts = {"items": IdMap.of(["c", "a", "b"]), "users": IdMap.of([7, 5]), "counts": np.array([2, 9, 2])}
    return Catalogue(**(parts | changes))


@given(st.one_of(INTEGERS, NAMES))
def test_ids_go_in_and_out(ids):
    known = IdMap.of(ids)
    assert known.rows(ids) == tuple(range(1, len(ids) + 1))
    assert known.external(range(1, len(ids) + 1)) == ids
    assert len(known) == len(ids)


def test_unknown_ids_have_row_zero():
    assert [IdMap.of([5, 6]).row(external) for external in (6, 9, None, 0)] == [2, 0, 0, 0]


def test_unknown_ids_are_left_out_of_rows():
    assert IdMap.of(["a", "b"]).rows(["b", "?", "a", "b"]) == (2, 1, 2)


LARGE = 2**53 + 1  # the first integer that a number of JavaScript loses


@pytest.mark.parametrize("ids", [[7, -2, LARGE], ["7", "-2", str(LARGE)]], ids=["integers", "strings"])
@pytest.mark.parametrize("asked", [[LARGE, 7, 9], [str(LARGE), "7", "9"], [LARGE, "7", "x"]])
def test_an_id_is_found_in_either_form(ids, asked):
    assert IdMap.of(ids).rows(asked) == (3, 1)
    assert [IdMap.of(ids).row(external) for external in asked] == [3, 1, 0]


def test_an_id_takes_the_form_of_the_others():
    assert [IdMap.of([1]).own_form(external) for external in (7, "7", "07")] == [7, 7, "07"]
    assert [IdMap.of(["a"]).own_form(external) for external in (7, "7", "07")] == ["7", "7", "07"]


@pytest.mark.parametrize("text", ["07", "+7", " 7", "7.0", "٧", str(2**63)])
def test_another_text_is_not_the_integer(text):
    assert IdMap.of([7]).rows([text, 7]) == (1,)


def test_the_largest_and_smallest_integers_are_ids():
    assert IdMap.of(EXTREMES).rows(EXTREMES) == (1, 2, 3, 4)
    assert IdMap.of(EXTREMES).row(2**63) == 0


@pytest.mark.parametrize("ids", [[3, 4, 3], ["a", "a"]])
def test_repeated_ids_are_refused(ids):
    with pytest.raises(ValueError, match=f"external ids repeat: {len(ids)} ids, {len(ids) - 1} different"):
        IdMap.of(ids)


@pytest.mark.parametrize("ids", [np.array([1.5]), np.array([True]), np.array([b"a"]), np.array([None])])
def test_other_types_are_refused(ids):
    with pytest.raises(ValueError, match="must be 64-bit integers or strings"):
        IdMap(ids)


@pytest.mark.parametrize("row", [0, -1, 3])
def test_row_outside_the_catalogue_has_no_id(row):
    with pytest.raises(IndexError):
        IdMap.of(["a", "b"]).external([1, row])


@given(st.lists(st.lists(st.integers(0, 9)), max_size=9))
def test_ragged_gives_its_rows_back(rows):
    ragged = Ragged.of(rows)
    assert [ragged[i].tolist() for i in range(len(ragged))] == rows
    assert ragged.lengths.tolist() == [len(row) for row in rows]


def test_ragged_is_32_bit_whatever_goes_in():
    assert Ragged.of([]).values.dtype == Ragged.of([np.array([1, 2])]).values.dtype == np.int32


def test_popularity_breaks_ties_by_row():
    assert small_catalogue().by_popularity.tolist() == [2, 1, 3]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"counts": np.zeros(2)}, "3 items but 2 popularity counts"),
        ({"categories": Ragged.of([[1]])}, "3 items but 1 category rows"),
        ({"newest": np.zeros(3, dtype=np.uint8)}, "2 users but 3 marks of their newest events"),
    ],
)
def test_parts_must_fit(changes, reason):
    with pytest.raises(ValueError, match=reason):
        small_catalogue(**changes)


@pytest.mark.parametrize("items", [["c", "a", "ä\u4e00"], EXTREMES[:3]])
@pytest.mark.parametrize("categories", [None, Ragged.of([[0], [], [2, 1]])])
def test_catalogue_survives_the_disk(tmp_path, items, categories):
    saved = small_catalogue(items=IdMap.of(items), categories=categories, newest=np.array([3, 200], dtype=np.uint8))
    saved.save(tmp_path / "catalogue.npz")
    loaded = Catalogue.load(tmp_path / "catalogue.npz")
    assert loaded.items.external([1, 2, 3]) == items
    assert loaded.users.external([1, 2]) == [7, 5]
    assert (loaded.counts.tolist(), loaded.newest.tolist()) == ([2, 9, 2], [3, 200])
    assert (loaded.categories and loaded.categories[2].tolist()) == (categories and [2, 1])


def test_one_long_id_costs_its_own_length(tmp_path):
    users = [f"u{n}" for n in range(3000)]
    sizes = []
    for longest in ("v", "v" * 256):
        replace(small_catalogue(), users=IdMap.of([*users, longest])).save(tmp_path / "catalogue.npz")
        sizes.append((tmp_path / "catalogue.npz").stat().st_size)
    assert sizes[1] - sizes[0] == 255
    assert Catalogue.load(tmp_path / "catalogue.npz").users.external([3000, 3001]) == ["u2999", "v" * 256]


@pytest.mark.parametrize("ids", [["a", "ü", ""], [3, -(2**63)]])
def test_catalogues_of_earlier_versions_are_read(tmp_path, ids):
    counts = np.zeros(len(ids), dtype=np.int64)
    np.savez(tmp_path / "catalogue.npz", items=np.array(ids), users=np.array(ids[::-1]), counts=counts)
    loaded = Catalogue.load(tmp_path / "catalogue.npz")
    assert loaded.items.ids.tolist() == ids
    assert loaded.users.rows(ids) == tuple(range(len(ids), 0, -1))


@pytest.mark.parametrize("ends", [[1, 3], [3, 2], [-1, 2]])
def test_ids_that_do_not_fit_their_text_are_refused(ends):
    arrays = {"items_text": np.frombuffer(b"ab", dtype=np.uint8), "items_ends": np.array(ends)}
    with pytest.raises(ValueError, match="the ids of items do not fit"):
        IdMap.load(arrays, "items")


def test_no_users_survive_the_disk(tmp_path):
    replace(small_catalogue(), users=IdMap.of([])).save(tmp_path / "catalogue.npz")
    assert len(Catalogue.load(tmp_path / "catalogue.npz").users) == 0
