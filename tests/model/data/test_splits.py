"""From a log to sequences: rows, k-core, leave-one-out, the cut by time."""

from collections import Counter
from decimal import Decimal
from itertools import chain

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.data.sequences import SPLITS
from model.data.splits import SplitRule, TimeCut, keep_core, split_log
from model.logs.events import EXACT, DataError, EventLog

EVENTS = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 8), st.integers(0, 20)), min_size=1, max_size=60)


def make_log(rows):
    return EventLog(pl.DataFrame(rows, schema=["user", "item", "time"], orient="row"))


def of_user(*items, user=1):
    return [(user, item, time) for time, item in enumerate(items)]


def split(rows, **rule):
    return split_log("x", make_log(rows), SplitRule(**rule))


def parts(data, user):
    row = data.catalogue.users.row(user)
    name = data.catalogue.items.external
    return tuple(name(part[row - 1].tolist()) for part in (data.train, data.valid, data.test))


def test_leave_one_out_takes_the_last_two():
    assert parts(split(of_user(50, 7, 300, 4)), 1) == ([50, 7], [300], [4])


@pytest.mark.parametrize("items", [(1,), (1, 2)])
def test_short_user_stays_in_train(items):
    data = split([*of_user(1, 2, 3, user=9), *of_user(*items)])
    assert parts(data, 1) == (list(items), [], [])


def test_repeated_items_stay():
    assert parts(split(of_user(5, 5, 6, 5)), 1) == ([5, 5], [6], [5])


def test_events_are_sorted_by_time():
    assert parts(split([(1, 30, 3), (1, 10, 1), (1, 20, 2)]), 1) == ([10], [20], [30])


def test_equal_times_keep_the_order_of_the_log():
    assert parts(split([(1, item, 7) for item in (9, 3, 8, 1)]), 1) == ([9, 3], [8], [1])


def test_gaps_in_ids_leave_no_gap_in_rows():
    catalogue = split(of_user(1000, -5, 2**62)).catalogue
    assert catalogue.items.ids.tolist() == [-5, 1000, 2**62]
    assert [catalogue.items.row(external) for external in (-5, 1000, 2**62)] == [1, 2, 3]


def test_text_that_is_kept_once_divides_as_text_does():
    rows = [(f"u{n % 5}", f"i{n % 7}", n * 37 % 50) for n in range(60)]
    coded = EventLog(make_log(rows).frame.with_columns(pl.col("user", "item").cast(pl.Categorical)))
    data = split_log("x", coded, SplitRule())
    assert data.digest == split(rows).digest
    assert data.catalogue.users.ids.tolist() == [f"u{n}" for n in range(5)]


@given(EVENTS)
def test_targets_of_the_history_are_counted(rows):
    rows = [*rows, *of_user(1, 2, 3, user=99)]
    data = split(rows)
    for name in SPLITS:
        part = data.valid if name == "valid" else data.test
        seen = [item in data.history(user, name) for user in range(1, len(part) + 1) for item in part[user - 1]]
        assert data.num_seen(name) == sum(seen)


def test_string_ids():
    assert parts(split(of_user("b", "ä", "a", user="u")), "u") == (["b"], ["ä"], ["a"])


def test_counts_are_of_train_only():
    catalogue = split([*of_user(1, 1, 2, 3), *of_user(1, 2, 3, user=2)]).catalogue
    assert catalogue.counts.tolist() == [3, 0, 0]


def test_no_user_to_test_is_an_error():
    with pytest.raises(DataError, match="no user has 3 events"):
        split(of_user(1, 2))


@given(EVENTS)
def test_leave_one_out_keeps_every_event_in_order(rows):
    rows = [*rows, *of_user(1, 2, 3, user=99)]
    data = split(rows)
    for user in {user for user, _, _ in rows}:
        mine = [item for _, item, _ in sorted((r for r in rows if r[0] == user), key=lambda r: r[2])]
        assert [*chain(*parts(data, user))] == mine


def test_cut_by_time_is_over_all_users():
    rows = [(1, 10, 0), (2, 20, 5), (1, 30, 5), (2, 40, 9)]
    data = split(rows, protocol="by-time", cut=TimeCut(5, 9))
    assert (parts(data, 1), parts(data, 2)) == (([10], [30], []), ([], [20], [40]))


def test_item_seen_after_the_cut_has_a_row_and_count_zero():
    data = split([(1, 10, 0), (1, 20, 5), (1, 30, 9)], protocol="by-time", cut=TimeCut(5, 9))
    assert data.catalogue.counts.tolist() == [1, 0, 0]
    assert data.protocol == "by-time"


def test_shares_cut_at_quantiles():
    data = split([(user, user % 7, user) for user in range(100)], protocol="by-time", valid_share=0.2, test_share=0.1)
    assert [len(part.values) for part in (data.train, data.valid, data.test)] == [69, 20, 11]


@given(EVENTS)
def test_cut_never_parts_equal_times(rows):
    rows = [*rows, (0, 0, -10), (0, 1, 30), (0, 2, 40)]
    data = split([(user, time, time) for user, _, time in rows], protocol="by-time", cut=TimeCut(10, 35))
    seen = [set(part.values.tolist()) for part in (data.train, data.valid, data.test)]
    assert sum(map(len, seen)) == len({time for _, _, time in rows})


def test_cut_outside_the_log_is_an_error():
    with pytest.raises(DataError, match="leaves train and valid empty"):
        split(of_user(1, 2, 3), protocol="by-time", cut=TimeCut(-2, -1))


def test_one_time_for_all_events_cannot_be_cut():
    with pytest.raises(DataError, match="too few different times"):
        split([(1, item, 7) for item in range(9)], protocol="by-time")


@given(EVENTS, st.integers(1, 4))
def test_core_is_a_fixed_point(rows, k):
    try:
        left = keep_core(make_log(rows).frame, k).rows()
    except DataError:
        left = []
    users, items = Counter(r[0] for r in left), Counter(r[1] for r in left)
    assert all(count >= k for counter in (users, items) for count in counter.values())
    assert not Counter(left) - Counter(rows)


def test_core_repeats_until_stable():
    rows = [(1, 1, 0), (1, 2, 1), (2, 1, 2), (2, 2, 3), (3, 2, 4), (3, 9, 5)]
    assert {user for user, _, _ in keep_core(make_log(rows).frame, 2).rows()} == {1, 2}


def test_core_is_off_by_default():
    assert len(split(of_user(1, 2, 3)).catalogue.items) == 3


def test_core_that_leaves_nothing_is_an_error():
    with pytest.raises(DataError, match="nothing is left of the log after the 5-core"):
        split(of_user(1, 2, 3), k_core=5)


@pytest.mark.parametrize("rule", [{"protocol": "random"}, {"k_core": -1}, {"valid_share": 0.0}, {"test_share": 0.95}])
def test_impossible_rule_is_refused(rule):
    with pytest.raises(DataError):
        SplitRule(**rule)


def test_backward_cut_is_refused():
    for cut in ((9, 5), ("9", "5"), ("2024-01-02", "2024-01-01"), (7, 7)):
        with pytest.raises(DataError, match="runs backwards"):
            TimeCut(*cut)


def test_a_cut_that_is_no_time_is_refused_before_a_log_is_read():
    with pytest.raises(DataError, match="soon is neither a number nor a date"):
        TimeCut("5", "soon")


def test_a_cut_runs_backwards_where_only_the_unit_shows_it():
    cut = TimeCut("2024-01-01", "1600000000")
    with pytest.raises(DataError, match="runs backwards"):
        cut.times("s")


@pytest.mark.parametrize("kind", [float, Decimal])
def test_a_cut_loses_no_digit_in_any_type_of_time(kind):
    edge = 1_700_000_000
    rows = [(1, n, kind(edge + n)) for n in range(6)]
    frame = pl.DataFrame(rows, schema=["user", "item", "time"], orient="row")
    if kind is Decimal:
        frame = frame.with_columns(pl.col("time").cast(EXACT))
    rule = SplitRule("by-time", cut=TimeCut(str(edge + 2), f"{edge + 3}.5"))
    data = split_log("x", EventLog(frame), rule)
    assert [len(part.values) for part in (data.train, data.valid, data.test)] == [2, 2, 2]


def test_prepared_data_survive_the_disk(tmp_path):
    data = split_log("x", make_log(of_user("b", "a", "c")), SplitRule(), {"a": [3], "b": [1, 3]})
    data.save(tmp_path)
    loaded = type(data).load(tmp_path)
    assert loaded.digest == data.digest
    assert loaded.catalogue.categories.values.tolist() == [1, 0, 1]
