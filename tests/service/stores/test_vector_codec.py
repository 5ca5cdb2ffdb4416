"""Vectors as bytes: what was stored comes back, and anything else is a miss with a reason."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.records import History
from service.stores.vector_codec import CachedVectors, RejectReason, cache_key, decode, encode

KEY = cache_key("bundle", "plan", History((1, 2), 3))
VALUE = CachedVectors(np.arange(8, dtype=np.float32).reshape(2, 4), np.array([5, 6], dtype=np.int64))
HISTORIES = st.builds(History, st.lists(st.integers(1, 2**40), max_size=5).map(tuple), st.integers(0, 9))


@given(st.integers(1, 4), st.integers(1, 8), st.integers(0, 5), st.integers(0, 2**32))
def test_what_was_stored_comes_back(num_queries, width, num_prompts, seed):
    rng = np.random.default_rng(seed)
    value = CachedVectors(rng.normal(size=(num_queries, width)).astype(np.float32), rng.integers(1, 2**60, num_prompts))
    again = decode(KEY, encode(KEY, value))
    assert np.array_equal(again.vectors, value.vectors)
    assert np.array_equal(again.prompts, value.prompts)


@given(st.integers(0, 10**4), st.integers(1, 255))
def test_a_changed_byte_is_never_an_answer(place, change):
    data = bytearray(encode(KEY, VALUE))
    data[place % len(data)] ^= change
    assert isinstance(decode(KEY, bytes(data)), RejectReason)


@pytest.mark.parametrize("length", [0, 1, 39, 40, 60])
def test_bytes_that_were_cut_are_a_miss(length):
    assert decode(KEY, encode(KEY, VALUE)[:length]) is RejectReason.SIZE


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (cache_key("bundle 2", "plan", History((1, 2), 3)), RejectReason.BUNDLE),
        (cache_key("bundle", "plan", History((1, 2), 4)), RejectReason.CHECKSUM),
        (cache_key("bundle", "plan 2", History((1, 2), 3)), RejectReason.CHECKSUM),
    ],
)
def test_bytes_under_another_key_are_a_miss(other, reason):
    assert decode(other, encode(KEY, VALUE)) is reason


@pytest.mark.parametrize(
    ("place", "reason"), [(0, RejectReason.MAGIC), (4, RejectReason.VERSION), (8, RejectReason.BUNDLE)]
)
def test_the_reason_names_what_is_wrong(place, reason):
    data = bytearray(encode(KEY, VALUE))
    data[place] ^= 1
    assert decode(KEY, bytes(data)) is reason


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_a_miss(wrong):
    vectors = VALUE.vectors.copy()
    vectors[1, 2] = wrong
    assert decode(KEY, encode(KEY, VALUE._replace(vectors=vectors))) is RejectReason.NOT_FINITE


@given(HISTORIES, HISTORIES)
def test_keys_are_equal_for_equal_histories_alone(first, second):
    same = cache_key("b", "p", first) == cache_key("b", "p", second)
    assert same is (first == second)


def test_no_two_names_run_together():
    assert cache_key("ab", "c", History(())) != cache_key("a", "bc", History(()))
