"""recall experiment report: the page, the JSON and the terminal, from an event log of the form the consumer writes."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest

from service.consumer.files import EventFolder
from service.consumer.tables import TABLES
from service.experiments.report.build import latency_of

TABLE = {table.name: table for table in TABLES}
START_MS, DAY_MS, KEY = 1_795_000_000_000, 86_400_000, "recgpt-vs-comirec"
ARMS, VARIATIONS = ("comirec", "recgpt"), ("control", "recgpt")


def write_log(folder, users=800, lift=0.6, lost=0.0, key=KEY, settings="", before=False):
    """Eight days of users: those of recgpt play more, and wait a little longer; `lost` of them are never seen.

    settings: of the lists of every second user of recgpt. before: the log reaches back to before the experiment.
    """
    rng = np.random.default_rng(3)
    events = {"exposures": [], "shown": [], "feedback": []}
    for user in range(users):
        arm = user % 2
        if arm and rng.random() < lost:
            continue
        since, name = START_MS + int(rng.integers(0, 8 * DAY_MS)), f"u{user}"
        own = {"experiment": key, "phase": "0", "config": "c0ffee", "unit": name, "variation": VARIATIONS[arm]}
        own |= {"request_id": f"r{user}", "ts_ms": since, "bundle": ("b1", "a7")[arm] * 16}
        served = rng.choice(["429", "fallback", ARMS[arm]], p=[0.004, 0.006, 0.99])
        exposed = {"id": name, "assigned": ARMS[arm], "served": served, "reason": "experiment"}
        events["exposures"].append(own | exposed | {"settings": settings if user % 4 == 1 else ""})
        items = [str(item) for item in rng.integers(0, 40 + 10 * arm, 12 - (rng.random() < 0.02))]
        answer = {"share": 0.4, "items": items, "scores": [1.0] * len(items), "served": served, "asked": 12}
        if rng.random() < 0.4:
            events["shown"].append(own | answer | {"took_ms": float(rng.lognormal(2.3 + 0.03 * arm, 0.3))})
        taste = 4 * rng.gamma(2)
        for number in range(rng.poisson(taste) if before else 0):
            earlier = {"action": "play", "watch_time_ms": 9000, "ts_ms": since - 1, "event_id": f"before {number}"}
            events["feedback"].append({"user": name, "item": str(number)} | earlier)
        for number in range(rng.poisson(taste * (1 + lift * arm))):
            did = {"action": "play", "watch_time_ms": int(rng.exponential(9000))} if rng.random() < 0.9 else LIKED
            when = {"ts_ms": since + int(rng.exponential(DAY_MS)), "event_id": str(number)}
            events["feedback"].append({"user": name, "item": str(number), "request_id": f"r{user}"} | did | when)
    files = EventFolder(folder)
    for table, rows in events.items():
        ordered = enumerate(sorted(rows, key=lambda row: row["ts_ms"]))
        blank = dict.fromkeys(TABLE[table].schema)
        files.write(TABLE[table], [blank | row | {"stream_id": f"{START_MS}-{n}"} for n, row in ordered])
    files.close()
    return folder


LIKED = {"action": "like"}


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    return write_log(tmp_path_factory.mktemp("log"))


@pytest.fixture(scope="module")
def reported(run_recall, log, tmp_path_factory):
    """The command's output, its JSON and its page."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    ended = run_recall("experiment", "report", KEY, "--log", log, "--html", path, "--json")
    assert ended.status == 0, ended.err
    return ended.out, ended.last_line, path.read_text(encoding="utf-8")


class Page(HTMLParser):
    """The elements and the text of a page; elements that are left open are counted."""

    VOID = ("meta", "br", "line", "polyline", "polygon", "link", "img")

    def __init__(self, text):
        super().__init__()
        self.names, self.attributes, self.texts, self.open = [], [], [], 0
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.names.append(tag)
        self.attributes += attrs
        self.open += tag not in self.VOID

    def handle_endtag(self, tag):
        self.open -= tag not in self.VOID

    def handle_data(self, data):
        self.texts.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.texts).split())


def test_page_loads_nothing_and_runs_nothing(reported):
    page = Page(reported[2])
    assert not {"script", "link", "img", "iframe"} & {*page.names}
    assert not [value for name, value in page.attributes if name in {"src", "href", "srcset"} or name.startswith("on")]
    assert re.findall(r"https?:|@import|url\(", reported[2]) == []
    assert page.open == 0
    assert reported[2].startswith("<!doctype html>")
    assert len(reported[2]) < 60_000


def test_page_follows_the_colour_scheme_and_the_width(reported):
    assert "prefers-color-scheme:dark" in reported[2]
    assert 'content="width=device-width, initial-scale=1"' in reported[2]


def test_sample_ratio_comes_first(reported):
    text = Page(reported[2]).text
    places = [text.index(part) for part in ("Sample ratio green", "recgpt against control", "Lift over time", "Guard")]
    assert places == sorted(places)


def test_figures_are_those_of_judge(run_recall, reported, log, tmp_path):
    users = tmp_path / "users.parquet"
    run_recall("events", "users", "--experiment", KEY, "--log", log, "--output", users)
    options = ("--primary", "plays", "--metrics", "plays,watch_time_s,likes", "--ratio", "error_rate=errors/requests")
    judged = run_recall("experiment", "judge", "--statistics", users, *options, "--json").last_line
    ours = reported[1]["verdict"]
    assert ours["metrics"] == judged["metrics"]
    assert judged["guardrails"] == [rail for rail in ours["guardrails"] if rail["metric"] == "error_rate"]


def test_lift_over_time_ends_with_the_verdict(reported):
    report = reported[1]
    last, plays = report["progress"][-1], report["verdict"]["metrics"][0]
    assert (last["lift"], last["ts_ms"]) == (plays["relative"], report["until_ms"])
    widths = [high - low for low, high in (point["lift"]["always_valid"] for point in report["progress"])]
    assert widths[-1] < widths[0] / 2
    assert [point["users"] for point in report["progress"]] == sorted(point["users"] for point in report["progress"])


def test_exposures_grow_to_all_users(reported):
    report = reported[1]
    assert (
        report["exposures"][-1]["users"] == report["verdict"]["sample_ratio"]["users"] == dict.fromkeys(VARIATIONS, 400)
    )
    assert [arm["users"] for arm in report["arms"]] == [400, 400]
    assert [arm["bundles"][0]["bundle"] for arm in report["arms"]] == ["b1" * 16, "a7" * 16]


def test_guard_rails_are_those_that_the_log_can_tell(reported):
    rails = [rail["metric"] for rail in reported[1]["verdict"]["guardrails"]]
    assert rails == ["latency_ms", "error_rate", "fallback_rate", "empty_rate", "short_rate"]


def test_latency_is_told_for_each_arm(reported):
    out, report, page = reported
    [control, recgpt] = [arm["latency"] for arm in report["arms"]]
    assert control["p50_ms"] < control["p95_ms"] < control["p99_ms"]
    assert control["answers"] + recgpt["answers"] == report["overlap"][0]["lists"]
    told = f"answers of recgpt took: median {recgpt['p50_ms']:.3g} ms, p95 {recgpt['p95_ms']:.3g} ms"
    assert told in out
    assert f"{recgpt['p99_ms']:.3g} {recgpt['answers']}" in Page(page).text


def test_an_answer_that_was_sampled_rarely_weighs_more():
    times = {"took_ms": [3.0, 1.0, 2.0], "share": [0.1, 1.0, 1.0], "asked": [12, 12, 12]}
    latency = latency_of(pl.DataFrame(times))
    assert (latency.answers, latency.p50_ms, latency.p95_ms) == (3, 3.0, 3.0)
    assert latency_of(pl.DataFrame(times | {"share": [1.0] * 3})).p50_ms == 2.0
    assert latency_of(pl.DataFrame(times | {"asked": [None] * 3}, schema_overrides={"asked": pl.Int64})) is None


def test_page_says_by_what_a_metric_is_judged(reported):
    text, plays = Page(reported[2]).text, reported[1]["verdict"]["metrics"][0]
    assert "corrected for their number (Holm)" in text
    assert f"p {plays['p_holm']:.2g} · users capped at {plays['winsorised']['cap']:.4g}: +" in text
    assert "unclear yet: part of it, or fewer than 100 users" in text


def test_what_users_did_before_is_said_to_adjust_the_lift(run_recall, tmp_path):
    path = tmp_path / "page.html"
    folder = write_log(tmp_path / "log", before=True)
    ended = run_recall("experiment", "report", KEY, "--log", folder, "--html", path, "--json")
    saved = ended.last_line["verdict"]["metrics"][0]["variance_reduction"]
    assert saved > 0.1
    assert f"(CUPED: {saved:.0%} less variance)" in ended.out
    assert f"(CUPED): {100 * saved:.3g} % less variance" in Page(path.read_text(encoding="utf-8")).text


def test_overlap_is_of_impressions(reported):
    [overlap] = reported[1]["overlap"]
    # of 50 items as likely as each other the control shows 40
    assert (overlap["control_items"], overlap["treatment_items"]) == (40, 50)
    assert overlap["share"] == pytest.approx(0.8, abs=0.05)


def test_terminal_says_the_same(reported):
    out, report, page = reported
    assert report["verdict"]["summary"] == "plays: recgpt better than control"
    assert "plays: recgpt better than control" in out
    assert "plays: recgpt better than control" in Page(page).text
    assert "sample ratio green" in out
    assert "of their impressions" in out


def test_no_lift_stands_anywhere_while_the_ratio_is_red(run_recall, tmp_path):
    folder, path = write_log(tmp_path / "log", lost=0.4), tmp_path / "red.html"
    ended = run_recall("experiment", "report", KEY, "--log", folder, "--html", path, "--json")
    report, text = ended.last_line, Page(path.read_text(encoding="utf-8")).text
    assert report["verdict"]["sample_ratio"]["state"] == "red"
    assert (report["verdict"]["metrics"], report["progress"], report["overlap"]) == ([], [], [])
    assert "No verdict is shown" in text
    assert "Guard rails" in text
    assert " better " not in text + ended.out
    assert "plays" not in text


def test_an_arm_without_users_is_a_red_ratio(run_recall, tmp_path):
    folder = write_log(tmp_path / "log", lost=1.0)
    ended = run_recall("experiment", "report", KEY, "--log", folder, "--weights", "control=.5,recgpt=.5", "--json")
    assert ended.status == 0, ended.err
    assert ended.last_line["verdict"]["sample_ratio"]["state"] == "red"
    assert ended.last_line["verdict"]["sample_ratio"]["users"] == {"control": 400, "recgpt": 0}


def test_names_are_escaped(run_recall, tmp_path):
    key, path = "<script>x</script>&", tmp_path / "page.html"
    write_log(tmp_path / "log", users=80, key=key)
    assert run_recall("experiment", "report", key, "--log", tmp_path / "log", "--html", path).status == 0
    page = Page(path.read_text(encoding="utf-8"))
    assert "script" not in page.names
    assert key in page.text


def test_what_layers_asked_of_the_lists_is_told(run_recall, reported, tmp_path):
    asked, path = '{"diversity":0.2}', tmp_path / "page.html"
    folder = write_log(tmp_path / "log", users=80, settings=asked)
    ended = run_recall("experiment", "report", KEY, "--log", folder, "--html", path, "--json")
    assert [arm["varied"] for arm in ended.last_line["arms"]] == [{}, {"": 20, asked: 20}]
    assert f"settings of the lists of recgpt: its own 20, {asked} 20" in ended.out
    assert f"the arm's own 20 {asked} 20" in Page(path.read_text(encoding="utf-8")).text
    # where none did, nothing is said of it
    assert "settings of" not in reported[0] + reported[2]


# --- the planned shares


def experiments_file(folder, **rule):
    path = folder / "experiments.json"
    own = {"key": KEY, "phase": "0", "hashAttribute": "user_id", "hashVersion": 2, "variations": [*ARMS]}
    own |= {"meta": [{"key": name} for name in VARIATIONS]}
    path.write_text(json.dumps({"features": {"recall_arm": {"defaultValue": "comirec", "rules": [own | rule]}}}))
    return path


def test_shares_come_from_the_experiments_file(run_recall, log, tmp_path):
    file = experiments_file(tmp_path, weights=[0.1, 0.9])
    ended = run_recall("experiment", "report", KEY, "--log", log, "--experiments", file, "--json")
    assert [arm["share"] for arm in ended.last_line["arms"]] == [0.1, 0.9]
    assert ended.last_line["verdict"]["sample_ratio"]["state"] == "red"


MISTAKES = {
    "no such experiment": (["other"], "no exposure of the experiment 'other'; it has those of recgpt-vs-comirec"),
    "no such phase": (
        [KEY, "--phase", "7"],
        "of the experiment 'recgpt-vs-comirec'; its phases are '0'",
    ),
    "no such metric": (
        [KEY, "--primary", "joy"],
        "'joy' is not in the statistics: they have plays, watch_time_s",
    ),
    "no such falling metric": ([KEY, "--lower-is-better", "hidse"], "--lower-is-better names 'hidse', and the metrics"),
    "no such guard rail": ([KEY, "--guardrail", "eror_rate=.1"], "--guardrail names 'eror_rate', and the metrics are"),
    "no number": (
        [KEY, "--guardrail", "error_rate=x"],
        "the rise that error_rate is allowed is 'x', which is no",
    ),
    "no ratio": ([KEY, "--ratio", "x=plays"], "x=plays is not NAME=COLUMN/COLUMN"),
    "no place for the page": ([KEY, "--html", "/nowhere/page.html"], "no folder for the file /nowhere/page.html"),
    "no such control": ([KEY, "--control", "c"], "control 'c' is none of control, recgpt"),
    "two shares": ([KEY, "--experiments", "FILE", "--weights", "control=1"], "both say the planned shares"),
    "other phase in the file": ([KEY, "--experiments", "NEXT"], "has phase '1' of recgpt-vs-comirec"),
    "no experiment in the file": ([KEY, "--experiments", "EMPTY"], "has no experiment 'recgpt-vs-comirec'"),
    "no service": ([KEY, "--url", "http://127.0.0.1:9"], "nothing answers at http://127.0.0.1:9"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_one_sentence(run_recall, log, tmp_path, name):
    args, reason = MISTAKES[name]
    files = {word: tmp_path / word for word in ("FILE", "NEXT", "EMPTY")}
    for folder in files.values():
        folder.mkdir()
    places = {"FILE": experiments_file(files["FILE"]), "NEXT": experiments_file(files["NEXT"], phase="1")}
    places |= {"EMPTY": experiments_file(files["EMPTY"], key="another")}
    ended = run_recall("experiment", "report", *(places.get(arg, arg) for arg in args), "--log", log)
    assert ended.status == 2
    assert reason in ended.sentence
