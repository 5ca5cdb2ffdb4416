"""An interleaving over HTTP, in both layouts of processes: served, logged, credited, judged."""

import json

import httpx
import polars as pl
import pytest

from service.experiments.team_draft import draft, seed_of

PATIENCE = ("--request-timeout-ms", "30000", "--events-timeout-ms", "5000", "--redis-timeout-ms", "5000")
KEY, USERS, LENGTH = "recgpt-with-comirec", range(40), 10
HISTORY = [10_001, 10_008, 10_022]
FORCED = {"X-AB-Bucket": "interleaved", "X-QA-Key": "key"}
RULE = {
    "key": KEY,
    "kind": "interleaving",
    "phase": "1",
    "hashAttribute": "user_id",
    "hashVersion": 2,
    "variations": ["comirec", "recgpt"],
    "meta": [{"key": "control"}, {"key": "recgpt"}],
}


@pytest.fixture(scope="module", params=["0", "1"], ids=["one process", "http process"])
def served(request, launch, arm_options, tmp_path_factory):
    """A service that interleaves, with its event log."""
    path = tmp_path_factory.mktemp("experiments") / "experiments.json"
    path.write_text(json.dumps({"features": {"recall_arm": {"defaultValue": "comirec", "rules": [RULE]}}}))
    options = (*arm_options, *PATIENCE, "--experiments", path, "--qa-key", "key", "--http-workers", request.param)
    with launch(*options, "--exposure-sample", "1", RECALL_EVENT_LOG_GB="1") as running:
        yield running


@pytest.fixture(scope="module")
def client(served):
    with httpx.Client(base_url=served.url, timeout=60) as http:
        yield http


@pytest.fixture(scope="module")
def ask(client):
    def post(path="/recall", headers=None, **body):
        reply = client.post(path, json={"top_n": LENGTH} | body, headers=headers)
        assert reply.status_code == 200, reply.text
        return reply.json()

    return post


def expected(ask, answer, user, **body):
    """The list that the two arms' own lists give, drafted again from what the answer says."""
    lists = [ask(f"/recall/{arm}", user_id=user, **body)["items"] for arm in ("comirec", "recgpt")]
    teams, places = draft(tuple(lists), len(answer["items"]), seed_of(KEY, "1", str(user), answer["request_id"]))
    return [lists[team][place] for team, place in zip(teams, places, strict=True)], teams


def test_answer_is_one_list_of_both_arms(client):
    reply = client.post("/recall", json={"user_id": "u", "history": HISTORY, "top_n": LENGTH})
    answer = reply.json()
    assert answer["experiment"] == {"key": KEY, "assigned": "interleaved", "served": "interleaved"} | {
        "reason": "experiment"
    }
    assert (reply.headers["X-AB-Experiment"], reply.headers["X-AB-Bucket"]) == (KEY, "interleaved")
    bundles = client.get("/version").json()["bundles"]
    assert answer["bundle"] == f"{bundles['comirec']}+{bundles['recgpt']}"
    assert len(set(answer["items"])) == LENGTH == len(answer["scores"])
    assert not {*HISTORY} & {*answer["items"]}


def test_list_is_the_draft_of_both_lists_and_can_be_made_again(ask):
    for user in USERS[:8]:
        answer = ask(user_id=user, history=HISTORY)
        assert answer["items"] == expected(ask, answer, user, history=HISTORY)[0]


def test_members_of_a_batch_are_interleaved_too(client, ask):
    bodies = [{"user_id": user, "history": HISTORY, "top_n": LENGTH} for user in USERS[:4]]
    bodies.append({"history": HISTORY, "top_n": LENGTH})
    *answers, nobody = client.post("/recall/batch", json={"requests": bodies}).json()["responses"]
    for user, answer in zip(USERS, answers, strict=False):
        assert answer["items"] == expected(ask, answer, user, history=HISTORY)[0]
    assert (nobody["arm"], nobody["experiment"]["reason"]) == ("comirec", "no_unit")


def test_explain_names_the_arm_of_each_item(ask):
    answer = ask(user_id=3, history=HISTORY, explain=True)
    items, teams = expected(ask, answer, 3, history=HISTORY)
    assert answer["items"] == items
    assert [source.partition(":")[0] for source in answer["sources"]] == [("comirec", "recgpt")[team] for team in teams]
    assert [len(column) for column in answer["reasons"].values()] == [LENGTH] * 4
    pinned = ask("/recall/recgpt", user_id=3, history=HISTORY, explain=True)
    own = [n for n, team in enumerate(teams) if team == 1]
    at = [pinned["items"].index(items[n]) for n in own]
    assert [answer["scores"][n] for n in own] == [pinned["scores"][place] for place in at]
    assert [answer["reasons"]["similar"][n] for n in own] == [pinned["reasons"]["similar"][place] for place in at]


def test_mixed_lists_leave_out_what_mixed_lists_have_shown(ask):
    answers = [ask(user_id="again", history=HISTORY, not_shown=True) for _ in range(4)]
    assert {answer["arm"] for answer in answers} == {"interleaved"}
    assert len({item for answer in answers for item in answer["items"]}) == 4 * LENGTH


@pytest.mark.parametrize("rule", [{"caps": {"author": 2}}, {"diversity": 0.3}], ids=["caps", "diversity"])
def test_rules_of_the_whole_list_are_answered_by_the_control_outside_the_test(client, rule):
    reply = client.post("/recall", json={"user_id": 5, "history": HISTORY, "top_n": LENGTH} | rule)
    told = {"key": None, "assigned": "comirec", "served": "comirec", "reason": "not_interleaved"}
    assert (reply.json()["experiment"], "X-AB-Bucket" in reply.headers) == (told, False)


def test_forced_mixed_list_with_such_rules_is_refused(client):
    body = {"user_id": 5, "history": HISTORY, "caps": {"author": 2}}
    reply = client.post("/recall", json=body, headers=FORCED)
    assert (reply.status_code, reply.json()["code"]) == (422, "bad_request")
    assert "caps and diversity hold for one arm's list" in reply.json()["message"]


def test_request_that_both_arms_refuse_is_refused(client):
    body = {"user_id": 6, "history": HISTORY, "min_catalogue": 1_000_000}
    reply = client.post("/recall", json=body, headers={"X-Request-Timeout-Ms": "300"})
    assert (reply.status_code, reply.json()["code"]) == (503, "catalogue_behind")


def test_filters_hold_for_every_item(ask):
    whole = ask(user_id=6, history=HISTORY, filter={"language": "en"}, top_n=30)
    assert len(whole["items"]) == 30
    assert all((item - 10_001) // 7 % 4 == 1 for item in whole["items"])


@pytest.fixture(scope="module")
def played(served, client, ask):
    """The event log, and the lists by request. Every player plays all that recgpt brought and one item of comirec.

    It stops the service, so the tests that need it come last.
    """
    lists = {}
    for user in USERS:
        name = f"player-{user}"
        answer = ask(user_id=name, history=HISTORY)
        items, teams = lists[answer["request_id"]] = expected(ask, answer, name, history=HISTORY)
        taken = [item for item, team in zip(items, teams, strict=True) if team]
        for moment, item in enumerate([*taken, items[teams.index(0)]]):
            # every other user's client forgets the request: the list is found by user, item and time
            request = {"request_id": answer["request_id"]} if user % 2 else {}
            event = {"user_id": name, "item_id": item, "action": "play", "event_id": str(moment)}
            client.post("/feedback", json=event | request).raise_for_status()
    ask(user_id="player-0", headers=FORCED)
    assert served.stop() == 0
    return served.state / "events", lists


def test_log_holds_each_list_with_the_team_of_each_item(played):
    folder, lists = played
    rows = pl.read_parquet(folder / "interleaved" / "*" / "*.parquet").rows_by_key("request_id", named=True)
    for request_id, (items, teams) in lists.items():
        [row] = rows[request_id]
        assert (row["items"], row["picks"]) == (list(map(str, items)), list(teams))
        assert (row["teams"], row["served"]) == (["control", "recgpt"], "interleaved")


def test_report_tells_whom_users_prefer(played, run_recall, tmp_path):
    told = run_recall("experiment", "report", KEY, "--log", played[0], "--html", tmp_path / "page", "--json")
    assert told.status == 0, told.err
    report = told.last_line
    plays = report["preferences"]["metrics"][0]
    # player-0 forced a list and is a tester; who asked in other tests played nothing, and prefers neither
    assert (plays["prefer_control"], plays["prefer_treatment"]) == (0, len(USERS) - 1)
    assert (plays["control_credit"], report["verdict"]) == (len(USERS) - 1, None)
    assert "plays: users prefer recgpt" in told.out
    digests = [part[:12] for part in report["arms"][0]["bundles"][0]["bundle"].split("+")]
    assert len(digests) == 2
    text = (tmp_path / "page").read_text(encoding="utf-8")
    assert all(digest in text and digest in told.out for digest in digests)
    assert "(all control) to +100 % (all recgpt); a user counts by rank" in text
    assert "Draft balance green" in (tmp_path / "page").read_text(encoding="utf-8")


def test_judge_tells_the_same_from_rows_of_users(played, run_recall, tmp_path):
    users, options = tmp_path / "users.parquet", ("--experiment", KEY, "--log", played[0])
    assert run_recall("events", "users", *options, "--output", users).last_line["variations"].keys() == {"interleaved"}
    judged = run_recall("experiment", "judge", "--statistics", users, "--primary", "plays", "--json")
    report = run_recall("experiment", "report", KEY, "--log", played[0], "--json").last_line
    assert judged.last_line == report["preferences"]


def test_options_of_a_split_are_refused(played, run_recall):
    ended = run_recall("experiment", "report", KEY, "--log", played[0], "--weights", "control=.5,recgpt=.5")
    assert (ended.status, "an interleaving has no --weights" in ended.sentence) == (2, True)
