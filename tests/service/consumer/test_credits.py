"""Credits: each action goes to the team whose list brought the item, by request or by time, or to nobody."""

from math import log

import polars as pl
import pytest

from benchmarks.consumer_kills import EXPOSURE, FEEDBACK_EVENT
from service.consumer.credits import read_credits
from service.consumer.files import EventFolder
from service.consumer.tables import TABLES
from service.consumer.users import read_experiment
from service.errors import BadStatistics

TABLE = {table.name: table for table in TABLES}


def make_log(folder, lists, actions, units=("u", "v")):
    own = {"experiment": "exp", "phase": "0", "variation": "interleaved"}
    rows = {"exposures": [EXPOSURE | own | {"id": unit, "unit": unit, "ts_ms": 1} for unit in units]}
    rows |= {"interleaved": lists, "feedback": actions}
    files = EventFolder(folder)
    for name, given in rows.items():
        blank = dict.fromkeys(TABLE[name].schema)
        numbered = [blank | row | {"stream_id": f"{n}-0"} for n, row in enumerate(given, 1)]
        if numbered:
            files.write(TABLE[name], numbered)
    files.close()
    return folder


def shown(request_id, items, picks, unit="u", ts_ms=10, in_both=1):
    row = {"request_id": request_id, "items": items, "picks": picks, "unit": unit, "ts_ms": ts_ms, "in_both": in_both}
    return row | {"experiment": "exp", "phase": "0", "teams": ["control", "recgpt"], "served": "interleaved"}


def played(item, request_id=None, user="u", ts_ms=20, **more):
    event = {"user": user, "item": item, "request_id": request_id, "ts_ms": ts_ms, "watch_time_ms": None}
    return FEEDBACK_EVENT | event | {"event_id": f"{user}-{item}-{request_id}-{ts_ms}"} | more


def credits_of(folder, until_ms=None):
    return read_credits(read_experiment(folder, "exp")).users_until(until_ms)


def plays(frame, user="u"):
    return frame.filter(pl.col("user_id") == user).select("plays:control", "plays:recgpt").row(0)


LISTS = [shown("r1", ["1", "2", "3"], [0, 1, 0]), shown("r2", ["3", "9"], [1, 0], ts_ms=30)]


@pytest.mark.parametrize(
    ("action", "credit"),
    [
        (played("2", "r1"), (0, 1)),
        (played("3", "r1"), (1, 0)),
        (played("3", "r2", ts_ms=40), (0, 1)),
        (played("3", ts_ms=29), (1, 0)),
        (played("3", ts_ms=30), (0, 1)),
        (played("3", ts_ms=9), (0, 0)),
        (played("7", "r1"), (0, 0)),
        (played("7"), (0, 0)),
        (played("2", "of another experiment"), (0, 0)),
    ],
    ids=[
        "by request",
        "other team",
        "later request",
        "before the second list",
        "newest list",
        "before any list",
        "not in the list",
        "never shown",
        "other request",
    ],
)
def test_action_is_credited_to_the_team_of_its_item(tmp_path, action, credit):
    assert plays(credits_of(make_log(tmp_path, LISTS, [action]))) == credit


def test_request_of_another_user_credits_nothing(tmp_path):
    folder = make_log(tmp_path, LISTS, [played("2", "r1", user="v"), played("2", user="v")])
    assert plays(credits_of(folder), "v") == (0, 0)


def test_every_exposed_user_has_a_row_with_every_metric(tmp_path):
    actions = [played("2", "r1", watch_time_ms=1500), played("2", "r1", action="like", event_id="other")]
    frame = credits_of(make_log(tmp_path, LISTS, actions))
    assert frame["user_id"].to_list() == ["u", "v"]
    assert frame.select("watch_time_s:recgpt", "likes:recgpt", "likes:control").rows() == [(1.5, 1, 0), (0, 0, 0)]


def test_logarithms_are_those_of_each_watch(tmp_path):
    actions = [played("1", "r1", watch_time_ms=3000), played("3", "r1", watch_time_ms=9000), played("2", "r1")]
    frame = credits_of(make_log(tmp_path, LISTS, actions))
    seconds, logarithm = frame.select("watch_time_s:control", "watch_time_log:control").row(0)
    assert (seconds, logarithm) == (12, pytest.approx(log(4) + log(10)))


def test_lists_of_both_teams_tell_who_began(tmp_path):
    alone = shown("r3", ["5"], [1], ts_ms=50)  # one arm had nothing: no coin decided
    frame = credits_of(make_log(tmp_path, [*LISTS, alone], []))
    assert frame.select("begun:control", "begun:recgpt").row(0) == (1, 1)


def test_a_moment_knows_nothing_of_what_comes_later(tmp_path):
    folder = make_log(tmp_path, LISTS, [played("2", "r1", ts_ms=20), played("3", "r2", ts_ms=40)])
    assert [plays(credits_of(folder, until)) for until in (19, 20, 40)] == [(0, 0), (0, 1), (0, 2)]


def test_share_of_items_in_both_lists(tmp_path):
    log = read_experiment(make_log(tmp_path, LISTS, []), "exp")
    assert read_credits(log).in_both == pytest.approx((1 / 3 + 1 / 2) / 2)


def test_where_every_request_failed_there_are_no_credits(tmp_path):
    log = read_experiment(make_log(tmp_path, [], [played("2")]), "exp")
    assert log.is_interleaving
    with pytest.raises(BadStatistics, match="no interleaved list"):
        read_credits(log)
