"""One row a user of the event log: the variation of the first exposure, and what came after it."""

import polars as pl
import pytest

from benchmarks.consumer_kills import EXPOSURE, FEEDBACK_EVENT
from service.consumer.files import EventFolder
from service.consumer.tables import TABLES
from service.consumer.users import read_experiment, read_users
from service.errors import BadStatistics

TABLE = {table.name: table for table in TABLES}


@pytest.fixture
def write(tmp_path):
    """write("feedback", rows): brings rows into the log in the folder, which it returns."""
    files = EventFolder(tmp_path)

    def run(table, *rows):
        whole = [dict.fromkeys(TABLE[table].schema) | row | {"stream_id": f"{n}-0"} for n, row in enumerate(rows, 1)]
        files.write(TABLE[table], whole)
        return tmp_path

    yield run
    files.close()


def exposure(unit, variation="control", ts_ms=100, **more):
    row = EXPOSURE | {"id": f"{unit}-{variation}-{ts_ms}", "unit": unit, "variation": variation, "ts_ms": ts_ms}
    return row | {"experiment": "exp", "phase": "0"} | more


def action(user, name="play", ts_ms=200, **more):
    row = {"user": user, "action": name, "ts_ms": ts_ms, "event_id": f"{user}-{name}-{ts_ms}", "item": "7"}
    return FEEDBACK_EVENT | row | {"watch_time_ms": None} | more


def rows(folder, *columns, **options):
    return read_users(folder, "exp", **options).frame.sort("user_id").select(*columns).rows()


def test_every_exposed_user_has_a_row_with_what_was_done(write):
    write("exposures", exposure("a"), exposure("b", "recgpt"), exposure("c"))
    folder = write("feedback", action("a", watch_time_ms=1500), action("a", "like"), action("b"), action("nobody"))
    assert rows(folder, "user_id", "variation", "plays", "likes", "watch_time_s") == [
        ("a", "control", 1, 1, 1.5),
        ("b", "recgpt", 1, 0, 0.0),
        ("c", "control", 0, 0, 0.0),
    ]


def test_without_feedback_everybody_has_zeros(write):
    assert rows(write("exposures", exposure("a")), "user_id", "plays", "watch_time_s") == [("a", 0, 0)]


def test_actions_before_the_exposure_do_not_count(write):
    write("exposures", exposure("a", ts_ms=100))
    assert rows(write("feedback", action("a", ts_ms=99), action("a", ts_ms=100)), "plays") == [(1,)]


def test_what_was_before_the_exposure_is_the_covariate(write):
    write("exposures", exposure("a", ts_ms=100), exposure("b", "recgpt", ts_ms=150), exposure("c", ts_ms=160))
    earlier = [action("a", ts_ms=98, watch_time_ms=2000), action("a", ts_ms=99), action("b", "like", ts_ms=120)]
    folder = write("feedback", *earlier, action("b", ts_ms=149), action("a", ts_ms=100), action("b", ts_ms=150))
    names = ("plays", "plays_before", "likes_before", "watch_time_s_before")
    assert rows(folder, *names) == [(1, 2, 0, 2.0), (1, 1, 1, 0.0), (0, 0, 0, 0.0)]


def test_nobody_has_a_covariate_of_what_nobody_did_before(write):
    write("exposures", exposure("a", ts_ms=100))
    frame = read_users(write("feedback", action("a", ts_ms=99), action("a", "like")), "exp").frame
    assert [name for name in frame.columns if name.endswith("_before")] == ["plays_before"]


def test_what_was_done_in_an_earlier_phase_is_no_covariate(write):
    """There the same users had the same arms: it is a part of the effect."""
    phases = [exposure("a", ts_ms=100), exposure("a", ts_ms=500, phase="1"), exposure("b", ts_ms=600, phase="1")]
    write("exposures", *phases)
    folder = write("feedback", *(action(user, ts_ms=ts_ms) for user in "ab" for ts_ms in (50, 300, 700)))
    assert rows(folder, "plays", "plays_before") == [(1, 1), (1, 2)]


def test_whoever_met_two_variations_counts_where_they_began(write):
    folder = write("exposures", exposure("a", "recgpt", 1), exposure("a", "control", 2))
    users = read_users(folder, "exp")
    assert (users.frame["variation"].to_list(), users.num_moved) == (["recgpt"], 1)


def test_failed_requests_are_counted_and_their_users_stay(write):
    days = [exposure("a", ts_ms=1, served="429"), exposure("a", ts_ms=2, served="fallback"), exposure("a", ts_ms=3)]
    assert rows(write("exposures", *days), "requests", "errors", "fallbacks") == [(3, 1, 1)]


def shown(unit, items, asked=2, took_ms=5.0, **more):
    row = {"experiment": "exp", "phase": "0", "unit": unit, "items": items, "asked": asked, "took_ms": took_ms}
    return row | {"request_id": f"{unit}-{len(items)}-{took_ms}", "ts_ms": 150} | more


def test_sampled_lists_tell_latency_empty_and_short_ones(write):
    write("exposures", exposure("a"), exposure("b"))
    lists = [shown("a", ["1", "2"]), shown("a", [], took_ms=7.0), shown("a", ["1"]), shown("b", ["1"], phase="9")]
    folder = write("shown", *lists, shown("a", ["3"], asked=None))
    assert rows(folder, "answers", "latencies_ms", "empties", "shorts") == [(3, 17.0, 1, 2), (0, 0.0, 0, 0)]


def test_files_of_an_older_service_lack_columns_and_are_read(write, tmp_path):
    folder = write("shown", shown("a", ["1"]))
    [path] = folder.glob("shown/*/*.parquet")
    old = pl.read_parquet(path, hive_partitioning=False).drop("asked", "took_ms")
    old.with_columns(request_id=pl.lit("old"), stream_id=pl.lit("0-1")).write_parquet(path.with_name("0-1_0-1.parquet"))
    write("exposures", exposure("a"))
    assert rows(folder, "answers", "shorts") == [(1, 1)]


def test_users_of_an_earlier_moment_have_what_they_did_by_then(write):
    write("exposures", exposure("a", ts_ms=100), exposure("late", ts_ms=300))
    log = read_experiment(write("feedback", action("a", ts_ms=200), action("a", ts_ms=301)), "exp")
    assert log.users_until(200).frame.select("user_id", "plays").rows() == [("a", 1)]
    assert (log.users_until().frame["plays"].to_list(), log.last_ms) == ([2, 0], 301)


def test_users_at_moments_are_those_until_each(write):
    write("exposures", exposure("a", ts_ms=100), exposure("b", "recgpt", 250), exposure("a", ts_ms=300, served="429"))
    write("shown", shown("a", ["1"]), shown("lost", ["1"]))
    folder = write("feedback", *(action(user, ts_ms=at) for user in "ab" for at in (150, 250, 260, 400)))
    log, moments = read_experiment(folder, "exp"), [99, 100, 200, 250, 300, 500]
    for moment, frame in zip(moments, log.users_at(moments), strict=True):
        assert frame.rows() == log.users_until(moment).frame.rows()
    assert frame.columns == log.users_until().frame.columns
    assert frame.select("user_id", "plays", "requests", "errors", "shorts").rows() == [
        ("a", 4, 2, 1, 1),
        ("b", 3, 1, 0, 0),
    ]


def test_testers_are_left_out_with_all_they_did(write):
    write("exposures", exposure("a"), exposure("tester"))
    write("forced", exposure("tester", reason="forced", request_id="r9"))
    folder = write("feedback", action("tester"), action("a", request_id="r9"), action("a", "like"))
    users = read_users(folder, "exp")
    assert (users.frame.select("user_id", "plays", "likes").rows(), users.num_testers) == ([("a", 0, 1)], 1)


def test_the_newest_phase_is_read_unless_another_is_named(write):
    folder = write("exposures", exposure("a", phase="0"), exposure("b", phase="1"))
    assert rows(folder, "user_id") == [("b",)]
    assert rows(folder, "user_id", phase="0") == [("a",)]


def test_an_experiment_without_exposures_is_refused(write):
    with pytest.raises(BadStatistics, match="no exposure of the experiment 'other'"):
        read_users(write("exposures", exposure("a")), "other")


def test_a_folder_without_exposures_is_told_from_none(tmp_path):
    with pytest.raises(BadStatistics, match="holds no exposures: nobody has been exposed yet, or it is no event log"):
        read_users(tmp_path, "exp")
    with pytest.raises(BadStatistics, match="there is no folder"):
        read_users(tmp_path / "none", "exp")


def test_judge_takes_the_rows(write, tmp_path, run_recall):
    users = [exposure(str(number), ("control", "recgpt")[number % 2]) for number in range(200)]
    folder = write("exposures", *users)
    write("feedback", *(action(str(number)) for number in range(0, 200, 3)))
    output = tmp_path / "users.parquet"
    made = run_recall("events", "users", "--experiment", "exp", "--log", folder, "--output", output)
    assert made.last_line["variations"] == {"control": 100, "recgpt": 100}
    assert pl.read_parquet(output).height == 200
    judged = run_recall("experiment", "judge", "--statistics", output, "--primary", "plays", "--json")
    assert judged.last_line["sample_ratio"]["state"] == "green"


def test_a_session_that_stands_in_counts_what_nobody_else_did(write):
    """Anonymous first, then logged in: what the user did is the user's, and counts once."""
    write("exposures", exposure("session_id||s"), exposure("u", "recgpt"))
    anonymous = action("session_id||s", session="s")
    folder = write("feedback", anonymous, action("u", session="s", ts_ms=300), action("u", ts_ms=400))
    assert rows(folder, "user_id", "variation", "plays") == [("session_id||s", "control", 1), ("u", "recgpt", 2)]


def test_an_experiment_of_sessions_counts_by_session_whoever_acts(write):
    write("exposures", exposure("session_id||s"), exposure("session_id||t", "recgpt"))
    actions = [action("u", session="s"), action("u", session="t", ts_ms=300), action("session_id||t", session="t")]
    folder = write("feedback", *actions, action("u", ts_ms=400), action("v", session="w"))
    assert rows(folder, "user_id", "plays") == [("session_id||s", 1), ("session_id||t", 2)]


def test_feedback_of_an_older_service_names_no_session(write):
    folder = write("feedback", action("u"), action("session_id||s", session="s"))
    [path] = folder.glob("feedback/*/*.parquet")
    pl.read_parquet(path, hive_partitioning=False).drop("session").write_parquet(path)
    write("exposures", exposure("session_id||s"))
    assert rows(folder, "user_id", "plays") == [("session_id||s", 1)]
