"""Column names: known ones, named ones, and what is said where one is missing."""

import pytest

from model.logs.columns import LogShape, is_header, name_columns, normal, plan_columns
from model.logs.events import DataError


@pytest.mark.parametrize(
    "header",
    [
        ["user_id", "item_id", "timestamp"],
        ["uid", "iid", "ts"],
        ["UID", " video_id ", "time_ms"],
        ["user", "item", "time"],
        ["User ID", "Item ID", "Time"],
        ["userId", "movieId", "timestamp"],
        ["user-id", "parent_asin", "time_stamp"],
    ],
)
def test_known_names_are_read(header):
    assert plan_columns(header, "x").positions == (("user", 0), ("item", 1), ("time", 2))


def test_the_columns_read_are_said():
    assert plan_columns(["asin", "reviewerID", "unixReviewTime"], "x").note == (
        "columns: user = reviewerID, item = asin, time = unixReviewTime"
    )


def test_missing_column_lists_wanted_and_present():
    with pytest.raises(
        DataError, match=r"x lacks a column \(wanted time: one of time, timestamp.*it has uid, iid, when"
    ):
        plan_columns(["uid", "iid", "when"], "x")


def test_a_long_header_is_cut_in_the_sentence():
    with pytest.raises(DataError) as refusal:
        plan_columns(["x" * 5000] * 900, "log.csv")
    assert len(str(refusal.value)) < 2500


def test_other_columns_are_named_as_ignored():
    assert plan_columns(["user_id", "uid", "item", "time", "rating"], "x").ignored == ("uid", "rating")


def test_named_columns_come_before_known_ones():
    shape = LogShape(columns={"user": "viewer", "item": "Clip Id"})
    assert plan_columns(["user_id", "viewer", "clip_id", "ts"], "x", shape).positions == (
        ("user", 1),
        ("item", 2),
        ("time", 3),
    )


def test_a_column_that_is_named_is_not_read_as_another():
    shape = LogShape(columns={"user": "item", "item": "item_id"})
    assert plan_columns(["item", "item_id", "time"], "x", shape).positions == (("user", 0), ("item", 1), ("time", 2))


def test_a_named_column_must_be_there():
    with pytest.raises(DataError, match="x has no column viewer for user; it has uid, iid, ts"):
        plan_columns(["uid", "iid", "ts"], "x", LogShape(columns={"user": "viewer"}))


def test_a_column_cannot_be_two_of_ours():
    with pytest.raises(DataError, match="--column reads A twice"):
        plan_columns(["a", "b", "time"], "x", LogShape(columns={"user": "a", "item": "A"}))


def test_a_log_in_order_needs_no_time_and_reads_none():
    assert plan_columns(["user", "time", "item"], "x", LogShape(in_order=True)).names == ("user", "item")


def test_a_header_names_user_and_item():
    assert is_header(["userId", "movieId", "rating"], LogShape())
    assert not is_header(["196", "242", "3"], LogShape())
    assert is_header(["a", "b"], LogShape(columns={"user": "a", "item": "b"}))


def test_skipped_columns_of_a_file_without_header():
    assert name_columns(["item", "-", "user", "time"]).positions == (("user", 2), ("item", 0), ("time", 3))


@pytest.mark.parametrize(("name", "same"), [("User ID", "user_id"), ("userId", "USER-ID"), ("用户 id", "用户_ID")])
def test_names_are_compared_without_signs_and_case(name, same):
    assert normal(name) == normal(same)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"columns": {"viewer": "user"}}, "knows the columns user, item, time"),
        ({"header": ("user", "item", "rating")}, "not rating"),
        ({"header": ("user", "item", "item", "time")}, "names a column twice"),
        ({"header": ("user", "item", "time"), "columns": {"user": "u"}}, "give one"),
        ({"in_order": True, "columns": {"time": "ts"}}, "give one of them"),
        ({"separator": ""}, "the separator is empty"),
        ({"separator": '"'}, "a separator holds no quote and no end of a line"),
    ],
)
def test_impossible_shapes_are_refused(shape, message):
    with pytest.raises(DataError, match=message):
        LogShape(**shape)
