"""GET /experiments/{key}/report of a real service, in a process of its own, from the event log in the state folder."""

import asyncio

import httpx
import pytest

from benchmarks.consumer_kills import EXPOSURE, FEEDBACK_EVENT
from service.consumer.files import EventFolder
from service.consumer.tables import TABLES
from service.errors import DeadlineExceeded, Overloaded, Unavailable
from service.reports import ReportMaker, ReportRequest

KEY, ADMIN = "recgpt-vs-comirec", {"X-Admin-Key": "key"}
TABLE = {table.name: table for table in TABLES}


def write_log(folder):
    own = {"experiment": KEY, "phase": "0", "config": "c0ffee", "ts_ms": 1_795_000_000_000}
    users = [(f"u{n}", ("control", "recgpt")[n % 2]) for n in range(200)]
    arms = {"control": "comirec", "recgpt": "recgpt"}
    named = [{"id": unit, "unit": unit, "variation": name, "assigned": arms[name]} for unit, name in users]
    exposures = [EXPOSURE | own | names for names in named]
    event = FEEDBACK_EVENT | {"item": "7", "ts_ms": own["ts_ms"] + 1}
    feedback = [event | {"user": f"u{n}", "event_id": "e", "request_id": "r"} for n in range(0, 200, 3)]
    files = EventFolder(folder)
    for name, rows in {"exposures": exposures, "feedback": feedback}.items():
        files.write(TABLE[name], [row | {"stream_id": f"{n}-0"} for n, row in enumerate(rows, 1)])
    files.close()
    return folder


@pytest.fixture(scope="module")
def served(launch, arm_options):
    with launch(*arm_options, "--admin-key", "key") as running:
        yield running


@pytest.fixture(scope="module")
def get(served):
    with httpx.Client(base_url=served.url, timeout=60, headers=ADMIN) as client:
        yield lambda key=KEY, **given: client.get(f"/experiments/{key}/report", **given)


@pytest.fixture(scope="module")
def logged(served, get):
    """The same with an event log; before it is there, the answer says so."""
    refused = get()
    assert (refused.status_code, refused.json()["code"]) == (404, "no_event_log")
    write_log(served.state / "events")
    return get


def test_report_is_a_page_with_the_settings_of_the_arms(logged):
    reply = logged()
    assert (reply.status_code, reply.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "Sample ratio green" in reply.text
    assert all(f"Settings of {arm}, as served now" in reply.text for arm in ("comirec", "recgpt"))
    assert reply.text.startswith("<!doctype html>")


def test_report_is_json_where_that_is_asked_for(logged):
    report = logged(params={"format": "json", "primary": "watch_time_s"}).json()
    assert report["verdict"]["sample_ratio"]["users"] == {"control": 100, "recgpt": 100}
    assert (report["verdict"]["control"], report["primary"]) == ("control", "watch_time_s")


@pytest.mark.parametrize(
    ("key", "params", "sentence"),
    [
        ("another", {}, "no exposure of the experiment 'another'"),
        (KEY, {"format": "pdf"}, "format: html or json"),
        (KEY, {"weights": "control=1"}, "weights: a report has the parameters format and primary"),
    ],
)
def test_report_that_cannot_be_is_refused_with_a_sentence(logged, key, params, sentence):
    reply = logged(key, params=params)
    assert (reply.status_code, sentence in reply.json()["message"]) == (422, True), reply.text


@pytest.mark.parametrize(("headers", "status"), [({"X-Admin-Key": ""}, 403), ({"X-Admin-Key": "other"}, 403)])
def test_report_needs_the_admin_key(get, headers, status):
    assert get(headers=headers).status_code == status


def test_without_a_key_a_report_is_refused(served):
    assert httpx.get(f"{served.url}/experiments/{KEY}/report").status_code == 401


# --- one at a time, and not for ever


def request(folder):
    return ReportRequest(folder=str(folder), key=KEY, experiments="none.json")


def test_second_report_at_once_is_refused(tmp_path):
    write_log(tmp_path)

    async def main():
        maker = ReportMaker()
        making = asyncio.create_task(maker.make(request(tmp_path)))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded, match="another report"):
            await maker.make(request(tmp_path))
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
        return maker

    assert not asyncio.run(main())._is_busy


def test_without_scipy_the_sentence_names_the_extra(tmp_path, monkeypatch):
    (tmp_path / "scipy.py").write_text("raise ImportError('not installed')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(Unavailable, match=r"recgpt-recall\[analysis\]"):
        asyncio.run(ReportMaker().make(request(write_log(tmp_path / "log"))))


def test_report_that_takes_too_long_is_ended(tmp_path):
    write_log(tmp_path)
    with pytest.raises(DeadlineExceeded, match="longer than"):
        asyncio.run(ReportMaker(0.001).make(request(tmp_path)))
