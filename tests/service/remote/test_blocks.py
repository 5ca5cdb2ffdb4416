"""Blocks on the wire: what was asked and answered arrives; bytes that do not fit together are a bad message."""

import time

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.merging import Merged
from model.records import History, SoftItems
from service.engine.blocks import RequestBlock, ResultBlock
from service.engine.messages import EngineRequest, EngineResult
from service.errors import EngineFailed, Overloaded, RecallError
from service.lists.reasons import NO_SOFT, Reasons
from service.remote.blocks import AnswerBlock, AskBlock, BadMessage, error_of
from service.stores.vector_codec import CachedVectors

ITEMS = st.lists(st.integers(1, 2**31 - 1), max_size=6).map(tuple)
COLUMNS = ("items", "lengths", "users", "limits", "own", "others", "other_lengths")


def result(rows, known=False, reasons=None):
    merged = Merged(np.array(rows), np.arange(len(rows), dtype=np.float32), np.zeros(len(rows), dtype=np.int64))
    vectors = CachedVectors(np.ones((2, 3), dtype=np.float32), np.array([4]))
    return EngineResult(vectors, merged, {"encode": 1.0}, known, 6, reasons)


@given(ITEMS, st.frozensets(st.integers(1, 99), max_size=4), st.booleans(), st.integers(0, 100))
def test_a_single_request_is_written_as_a_block_of_one(items, others, is_own, limit):
    history = History(items, 3)
    request = EngineRequest(history, limit, history.items if is_own else others, key=b"k", min_catalogue=2)
    single = AskBlock.single(1, "arm", "bundle", request)
    assert single == AskBlock.of(1, "arm", "bundle", RequestBlock.of(request))
    [again] = single.block().requests()
    assert (again.history, again.limit, again.key) == (history, limit, b"k")
    assert set(again.excluded) == set(request.excluded)


def test_a_deadline_travels_as_the_seconds_left():
    message = AskBlock.single(1, "arm", "bundle", EngineRequest(History(()), 1, deadline=time.monotonic() + 60))
    assert 59 < message.left_s <= 60
    assert AskBlock.single(1, "arm", "bundle", EngineRequest(History(()), 1)).block().deadline == float("inf")


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("change", [lambda data: data + b"\1", lambda data: data + b"\1\0\0\0", lambda data: data[:-1]])
def test_columns_that_do_not_fit_together_are_a_bad_message(column, change):
    request = EngineRequest(History((1, 2), 3), 5, frozenset({7}))
    message = AskBlock.single(1, "arm", "bundle", request)
    torn = msgspec.structs.replace(message, **{column: change(getattr(message, column))})
    with pytest.raises(BadMessage):
        torn.block()


def test_lengths_below_zero_do_not_hide_in_a_sum():
    request = EngineRequest(History((1, 2)), 5)
    two = RequestBlock(RequestBlock.of(request).columns.join([RequestBlock.of(request).columns] * 2))
    message = AskBlock.of(1, "arm", "bundle", two)
    lengths = np.array([6, -2], dtype="<i4").tobytes()
    with pytest.raises(BadMessage, match="do not fit together"):
        msgspec.structs.replace(message, lengths=lengths).block()


def test_a_key_for_some_users_alone_is_refused():
    message = AskBlock.single(1, "arm", "bundle", EngineRequest(History(()), 1))
    with pytest.raises(BadMessage, match="do not fit together"):
        msgspec.structs.replace(message, keys=[b"a", b"b"]).block()


@pytest.mark.parametrize("rows", [[], [5], [5, 6, 7]])
def test_a_single_answer_is_the_answer_of_the_block(rows):
    message = AnswerBlock.of(3, ResultBlock.of([result(rows, known=True)]))
    single, [of_block] = message.single(), message.result().outcomes()
    assert single.merged.rows.tolist() == of_block.merged.rows.tolist() == rows
    assert single.vectors.vectors.tolist() == of_block.vectors.vectors.tolist()
    assert single.known
    assert single.catalogue == 6


def test_vectors_are_left_out_where_nobody_wants_them():
    message = AnswerBlock.of(3, ResultBlock.of([result([5])]), wants_vectors=False)
    assert message.vectors == b""
    assert message.single().vectors.vectors.size == 0


def test_reasons_travel_with_their_list():
    soft = SoftItems(np.array([[7, 8, 9], [4, 5, 6]]), np.full((2, 3), 0.25, dtype=np.float32))
    reasons = Reasons(np.array([[1, 2]]), np.array([[0.5, 0.25]], dtype=np.float32), np.array([[3, 0]]), soft)
    told = AnswerBlock.of(3, ResultBlock.of([result([5], reasons=reasons), result([6])]))
    [first, second] = told.result().outcomes()
    assert [column.tolist() for column in first.reasons[:3]] == [[[1, 2]], [[0.5, 0.25]], [[3, 0]]]
    assert [column.tolist() for column in first.reasons.soft] == [column.tolist() for column in soft]
    assert second.reasons is None


def test_reasons_without_soft_items_travel_too():
    reasons = Reasons(np.array([[1]]), np.ones((1, 1), dtype=np.float32), np.array([[3]]))
    told = AnswerBlock.of(3, ResultBlock.of([result([5], reasons=reasons)]))
    assert told.single().reasons.soft.rows.shape == NO_SOFT.rows.shape


def test_an_error_of_one_user_leaves_the_others_their_answers():
    message = AnswerBlock.of(3, ResultBlock.of([Overloaded("full"), result([6])]))
    [first, second] = message.result().outcomes()
    assert (type(first), str(first)) == (Overloaded, "full")
    assert second.merged.rows.tolist() == [6]
    with pytest.raises(Overloaded, match="full"):
        message.single()


@pytest.mark.parametrize("column", ["lengths", "rows", "scores", "sources", "vectors", "prompts", "known"])
@pytest.mark.parametrize("change", [lambda data: data + b"\1", lambda data: data[:-1], lambda data: data * 2])
def test_answers_that_are_torn_are_bad_messages_or_answers_and_nothing_else(column, change):
    message = AnswerBlock.of(3, ResultBlock.of([result([5, 6])]))
    torn = msgspec.structs.replace(message, **{column: change(getattr(message, column))})
    for read in (torn.single, torn.result):
        try:
            read()
        except BadMessage:
            continue


def test_an_answer_to_nobody_is_a_bad_message():
    empty = AnswerBlock(1, b"", b"", b"", b"", 0, b"", b"", b"", {})
    with pytest.raises(BadMessage):
        empty.result()


def test_plans_of_other_users_are_a_bad_message():
    message = msgspec.structs.replace(AnswerBlock.of(3, ResultBlock.of([result([5])])), cheap=[True, False])
    with pytest.raises(BadMessage, match="the plan of other users"):
        message.single()


def test_an_error_that_this_version_does_not_know_keeps_its_words():
    error = error_of("a_code_of_tomorrow", "why")
    assert type(error) is EngineFailed
    assert str(error) == "why"
    assert isinstance(error, RecallError)
