"""Numbers by name: the same whoever asks and whenever, evenly spread, and unlike those of any other name."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recall.replay.audiences.draws import mix, uniform

USERS, ITEMS = np.divmod(np.arange(40_000), 200)


@given(st.integers(0, 2**63), st.permutations(range(20)))
def test_a_number_does_not_depend_on_the_order_of_the_pairs(seed, order):
    whole = uniform(seed, 1, USERS[:20], ITEMS[:20])
    assert uniform(seed, 1, USERS[:20][order], ITEMS[:20][order]).tolist() == whole[order].tolist()


def test_numbers_are_spread_evenly_over_0_to_1():
    numbers = uniform(3, 0, USERS, ITEMS)
    assert 0 <= numbers.min() <= numbers.max() < 1
    assert np.histogram(numbers, 20, (0, 1))[0] == pytest.approx(2000, rel=0.12)


@pytest.mark.parametrize(
    "other",
    [(4, 0, USERS, ITEMS), (3, 1, USERS, ITEMS), (3, 0, ITEMS, USERS), (3, 0, USERS + 1, ITEMS)],
    ids=["seed", "purpose", "sides", "users"],
)
def test_another_name_gives_other_numbers(other):
    first, second = uniform(3, 0, USERS, ITEMS), uniform(*other)
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.03


def test_mixing_is_a_permutation_in_which_one_bit_changes_half():
    words = np.arange(2000, dtype=np.uint64)
    assert len(np.unique(mix(words))) == len(words)
    changed = mix(words) ^ mix(words ^ np.uint64(1))
    ones = np.unpackbits(changed.view(np.uint8)).mean()
    assert ones == pytest.approx(0.5, abs=0.02)
