"""A canary over HTTP, in both process layouts: a good one is promoted, a bad one is rolled back by itself."""

import itertools
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import httpx
import pytest

from recall.bench.target import children_running
from tests.waiting import wait_for

ADMIN_KEY = "only-for-admins"
PATIENT = (
    *("--request-timeout-ms", "30000", "--redis-timeout-ms", "5000", "--events-timeout-ms", "5000"),
    *("--engine-stall-ms", "60000", "--target-wait-ms", "5000"),
)
LAYOUTS = {"one process": (), "workers": ("--http-workers", "2")}
# what is measured on a shared machine says nothing of a canary: latency is a bound of other tests
TERMS = {"share": 0.5, "max_slowdown": 1000}
NO_KEEPALIVE = httpx.Limits(max_keepalive_connections=0)


@pytest.fixture(scope="module", params=LAYOUTS)
def served(request, launch, bundles, tmp_path_factory):
    """A service of one arm, recgpt; beside its folder lie the same bundle once more and one of another network."""
    folder = tmp_path_factory.mktemp("arms")
    for name, source in {"own": "recgpt", "other": "comirec"}.items():
        shutil.copytree(bundles[source], folder / name)
    options = ("--arm", f"main={folder / 'own'}", "--admin-key", ADMIN_KEY, *PATIENT, *LAYOUTS[request.param])
    with launch(*options) as running:
        yield running


@pytest.fixture
def admin(served):
    headers = {"X-Admin-Key": ADMIN_KEY}
    with httpx.Client(base_url=served.url, timeout=60, headers=headers, limits=NO_KEEPALIVE) as client:
        yield client


def reload(admin, **body):
    reply = admin.post("/admin/reload", json={"arm": "main"} | body)
    assert reply.status_code == 200, reply.text
    return reply.json()


def canary_of(admin):
    return admin.get("/arms").json()["arms"]["main"]["canary"]


class Users:
    """Ask all the time, one after the other, and keep what was answered."""

    def __init__(self, url, known):
        self.answers, self._url, self._known, self._is_over = [], url, known, threading.Event()

    def _work(self, number):
        with httpx.Client(base_url=self._url, timeout=60, limits=NO_KEEPALIVE) as client:
            for user in itertools.count(number, 2):
                if self._is_over.is_set():
                    return
                body = {"user_id": f"u{user % 60}", "history": self._known[user % 50 : user % 50 + 3], "top_n": 20}
                reply = client.post("/recall", json=body)
                self.answers.append((body["user_id"], reply.status_code, reply.json()))
                time.sleep(0.01)

    def __enter__(self):
        self._threads = ThreadPoolExecutor(2)
        self._running = [self._threads.submit(self._work, number) for number in range(2)]
        return self

    def __exit__(self, *_):
        self._is_over.set()
        for running in self._running:
            running.result()
        self._threads.shutdown()


def test_a_bad_canary_is_rolled_back_by_itself(served, admin, known):
    """Its lists have little in common with those in force: another network, neither of them trained."""
    with Users(served.url, known) as users:
        started = reload(admin, bundle="other", canary=TERMS | {"min_overlap": 0.5})
        assert (started["changed"], canary_of(admin)["bundle"]) == (False, started["canary"])
        wait_for(lambda: canary_of(admin) is None)
        wait_for(lambda: len(users.answers) > 100)
    ready = admin.get("/ready").json()
    assert "its lists have " in ready["refused"]["main"]
    assert ready["ready"] is True
    assert {status for _, status, _ in users.answers} == {200}
    assert {tuple(answer["degraded"]) for *_, answer in users.answers} == {()}
    bundles = {answer["bundle"] for *_, answer in users.answers}
    assert bundles == {started["bundle"], started["canary"]}
    assert 'recall_reloads_total{arm="main",result="trial_ended"} 1.0' in admin.get("/metrics").text


def test_users_stay_with_their_bundle_and_a_good_canary_is_promoted(served, admin, known):
    own = admin.get("/arms").json()["arms"]["main"]["bundle"]
    with Users(served.url, known) as users:
        started = reload(admin, bundle="other", canary=TERMS | {"min_overlap": 0, "seconds": 2})
        wait_for(lambda: canary_of(admin) is None)
        wait_for(lambda: admin.get("/arms").json()["arms"]["main"]["bundle"] == started["canary"])
    assert {status for _, status, _ in users.answers} == {200}
    last_old = max(n for n, (*_, answer) in enumerate(users.answers) if answer["bundle"] == own)
    mixed = [answer["bundle"] for *_, answer in users.answers[:last_old]]
    assert mixed.count(own) > 10
    assert mixed.count(started["canary"]) > 10
    by_user = {}
    for user, _, answer in users.answers[:last_old]:
        by_user.setdefault(user, []).append(answer["bundle"])
    # before the trial the old one answers all, after it the new one: in between nobody changes back
    assert max(len([*itertools.groupby(seen)]) for seen in by_user.values()) <= 2
    assert admin.get("/ready").json()["refused"] == {}
    assert reload(admin, rollback=True)["bundle"] == own


def test_a_trial_is_ended_by_hand_and_the_command_says_so(served, admin, run_recall):
    given = ("reload", "main", "--url", served.url)
    begun = run_recall(*given, "--bundle", "other", "--canary", "0.2", RECALL_ADMIN_KEY=ADMIN_KEY)
    [outcome] = begun.last_line["reloaded"]
    assert f"{outcome['canary']} is on trial" in begun.err
    assert canary_of(admin)["share"] == 0.2
    refused = run_recall(*given, "--bundle", "other", RECALL_ADMIN_KEY=ADMIN_KEY)
    assert "409 reload_under_way: arm main: a canary is on trial" in refused.sentence
    [ended] = run_recall(*given, "--rollback", RECALL_ADMIN_KEY=ADMIN_KEY).last_line["reloaded"]
    assert (ended["changed"], ended["canary"], canary_of(admin)) == (False, None, None)
    assert admin.get("/ready").json()["refused"] == {}
    without = run_recall(*given, "--canary-s", "5", RECALL_ADMIN_KEY=ADMIN_KEY)
    assert (without.status, "give --canary SHARE too" in without.sentence) == (2, True)


def process_of(served, module):
    """A process of the service that runs a module."""
    return next(iter(children_running(f"service.processes.{module}", served.process.pid)), None)


@pytest.mark.parametrize("killed", ["http", "engine"])
def test_a_trial_outlives_an_http_process_and_ends_with_the_engine_process(served, admin, known, killed):
    victim = process_of(served, killed)
    if victim is None:
        pytest.skip("one process: its end is that of the service")
    started = reload(admin, bundle="other", canary=TERMS | {"min_overlap": 0, "max_errors": 1})
    victim.kill()
    wait_for(lambda: process_of(served, killed) not in (victim, None))

    def is_ready():
        # connections that a killed process had not taken yet are reset
        with suppress(httpx.TransportError):
            return admin.get("/ready").status_code == 200

    wait_for(lambda: all(is_ready() for _ in range(10)))

    def ask(user):
        body = {"user_id": f"u{user}", "history": known[:3], "top_n": 5}
        with httpx.Client(base_url=served.url, timeout=60) as client, suppress(httpx.TransportError):
            answer = client.post("/recall", json=body).json()
            return answer["bundle"], answer["degraded"]

    def is_whole(answer):
        return answer is not None and answer[1] == []

    # the processes may not have noticed yet: until the engine process is there again they answer by the fallback
    wait_for(lambda: all(is_whole(ask(user)) for user in range(20)))
    answers = [ask(user) for user in range(60)]
    bundles = {started["bundle"], started["canary"]} if killed == "http" else {started["bundle"]}
    assert {bundle for bundle, _ in answers} == bundles
    assert [degraded for _, degraded in answers if degraded] == []
    if killed == "engine":
        wait_for(lambda: all(canary_of(admin) is None for _ in range(10)))
    else:
        assert all(canary_of(admin)["bundle"] == started["canary"] for _ in range(10))
        reload(admin, rollback=True)


@pytest.mark.parametrize(
    "body",
    [
        {"canary": {}},
        {"canary": {"share": 0}},
        {"canary": {"share": 1.5}},
        {"canary": {"share": 0.1, "seconds": 0}},
        {"canary": {"share": 0.1, "other": 1}},
        {"canary": {"share": 0.1}, "rollback": True},
        {"canary": {"share": 0.1}, "promote": True},
        {"promote": True, "rollback": True},
        {"promote": True, "bundle": "other"},
        {"promote": True},
    ],
)
def test_a_bad_wish_is_refused(admin, body):
    assert admin.post("/admin/reload", json={"arm": "main"} | body).status_code == 422
