"""Bundles changed under a running service, in one process and in several: no request lost, no answer mixed."""

import functools
import itertools
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from service.engine.loading import load_arm
from service.lists.fill import complete

ADMIN_KEY = "only-for-admins"
PATIENT = (
    *("--request-timeout-ms", "30000", "--redis-timeout-ms", "5000", "--events-timeout-ms", "5000"),
    *("--engine-stall-ms", "60000", "--target-wait-ms", "5000"),
)
TOP_N, NUM_SWAPS, NUM_CLIENTS = 20, 3, 4
PAUSE_S = 0.01  # of a client: without one the clients take both cores, and the bundles wait for them
# a connection a request: the kernel spreads them over the HTTP processes
NO_KEEPALIVE = httpx.Limits(max_keepalive_connections=0)
LAYOUTS = {"one process": (), "workers": ("--http-workers", "2")}


@pytest.fixture(scope="module", params=LAYOUTS)
def reloading(request, launch, bundles, tmp_path_factory):
    """(url, the arm's own folder): a service of one arm, recgpt; `other` and a spoiled bundle lie beside its folder.

    `other` has text ids, so that a row read by the wrong catalogue is seen in any answer.
    """
    folder = tmp_path_factory.mktemp("arms")
    for name, source in {"own": "recgpt", "other": "words", "spoiled": "comirec"}.items():
        shutil.copytree(bundles[source], folder / name)
    with (folder / "spoiled" / "golden.safetensors").open("r+b") as file:
        file.truncate(100)
    options = ("--arm", f"main={folder / 'own'}", "--admin-key", ADMIN_KEY, *PATIENT, *LAYOUTS[request.param])
    with launch(*options) as served:
        yield served.url, folder


@pytest.fixture
def admin(reloading):
    url, _ = reloading
    headers = {"X-Admin-Key": ADMIN_KEY}
    with httpx.Client(base_url=url, timeout=60, headers=headers, limits=NO_KEEPALIVE) as client:
        yield client


def reload(admin, **body):
    return admin.post("/admin/reload", json={"arm": "main"} | body)


class Clients:
    """Ask all the time, each on connections of its own, and keep what was answered."""

    def __init__(self, url, histories):
        self.answers, self._url, self._histories, self._is_over = [], url, histories, threading.Event()
        self._threads = ThreadPoolExecutor(NUM_CLIENTS)

    def _work(self, number):
        with httpx.Client(base_url=self._url, timeout=60, limits=NO_KEEPALIVE) as client:
            for history in itertools.cycle(self._histories[number::NUM_CLIENTS]):
                if self._is_over.is_set():
                    return
                reply = client.post("/recall", json={"history": history, "top_n": TOP_N, "explain": True})
                self.answers.append((history, reply.status_code, reply.json()))
                time.sleep(PAUSE_S)

    def wait_for_more(self, count):
        wanted, deadline = len(self.answers) + count, time.monotonic() + 60
        while len(self.answers) < wanted:
            assert time.monotonic() < deadline, "no answers"
            time.sleep(0.01)

    def __enter__(self):
        self._running = [self._threads.submit(self._work, n) for n in range(NUM_CLIENTS)]
        return self

    def __exit__(self, *_):
        self._is_over.set()
        for running in self._running:
            running.result()
        self._threads.shutdown()


class Expected:
    """The list of each bundle, asked alone, in this process."""

    def __init__(self, bundles):
        loaded = [load_arm("main", bundles[name], "cpu") for name in ("recgpt", "words")]
        self.arms = {arm.release.bundle: arm for arm in loaded}
        self.own, self.other = (arm.release.bundle for arm in loaded)

    @functools.lru_cache  # noqa: B019  (as long as the module's tests)
    def items(self, bundle, history):
        arm = self.arms[bundle]
        request = arm.release.request(None, history, limit=TOP_N)
        listed = complete(arm.release.items, arm.compute.run([request])[0].merged, request)
        return arm.release.catalogue.items.column(listed.rows).tolist()


@pytest.fixture(scope="module")
def oracle(bundles):
    return Expected(bundles)


def test_bundles_change_under_load_without_a_lost_or_mixed_answer(reloading, admin, oracle, known):
    url, _ = reloading
    histories = [(*known[n : n + 3], f"clip-{n:03}", f"clip-{n + 40:03}") for n in range(20)]
    with Clients(url, histories) as clients:
        clients.wait_for_more(20)
        for number in range(NUM_SWAPS):
            outcome = reload(admin, bundle="own" if number % 2 else "other").json()
            assert outcome["bundle"] == (oracle.own if number % 2 else oracle.other), outcome
            clients.wait_for_more(20)
        back = reload(admin, rollback=True).json()
        clients.wait_for_more(20)
    assert (back["bundle"], back["previous"], back["changed"]) == (oracle.own, oracle.other, True)
    assert {status for _, status, _ in clients.answers} == {200}
    assert {answer["bundle"] for *_, answer in clients.answers} == {oracle.own, oracle.other}
    assert {tuple(answer["degraded"]) for *_, answer in clients.answers} == {("unknown_items",)}
    for history, _, answer in clients.answers:
        assert answer["items"] == oracle.items(answer["bundle"], history)


def test_every_process_says_what_is_served(admin, oracle):
    for bundle, previous in [("other", oracle.own), ("own", oracle.other)]:
        served = reload(admin, bundle=bundle).json()["bundle"]
        for _ in range(6):
            arm = admin.get("/arms").json()["arms"]["main"]
            assert (arm["bundle"], arm["previous"]) == (served, previous)
            assert admin.get("/version").json()["bundles"] == {"main": served}


def test_a_refused_bundle_changes_nothing_and_is_named(admin):
    before = admin.get("/arms").json()
    reply = reload(admin, bundle="spoiled")
    assert (reply.status_code, reply.json()["code"]) == (422, "reload_refused")
    assert "golden.safetensors has 100 bytes" in reply.json()["message"]
    assert admin.get("/arms").json() == before
    ready = admin.get("/ready")
    assert (ready.status_code, ready.json()["refused"]) == (200, {"main": reply.json()["message"]})
    assert 'recall_bundle_refused{arm="main"} 1.0' in admin.get("/metrics").text
    assert reload(admin).json()["changed"] is False
    assert admin.get("/ready").json()["refused"] == {}
    assert 'recall_reloads_total{arm="main",result="refused"}' in admin.get("/metrics").text


def test_two_reloads_at_once_are_one(admin):
    with ThreadPoolExecutor(8) as senders:
        replies = [*senders.map(lambda n: reload(admin, bundle=["other", "own"][n % 2]), range(8))]
    statuses = [reply.status_code for reply in replies]
    assert set(statuses) == {200, 409}
    [refused] = {(r.json()["code"], r.json()["retryable"]) for r in replies if r.status_code == 409}
    assert refused == ("reload_under_way", True)
    assert reload(admin, bundle="own").status_code == 200


@pytest.mark.parametrize(
    ("key", "status", "code"), [(None, 401, "unauthorized"), ("wrong", 403, "forbidden"), ("", 403, "forbidden")]
)
def test_nobody_reloads_without_the_key(reloading, key, status, code):
    headers = {} if key is None else {"X-Admin-Key": key}
    reply = httpx.post(f"{reloading[0]}/admin/reload", json={"arm": "main"}, headers=headers)
    assert (reply.status_code, reply.json()["code"]) == (status, code)


def test_a_service_without_a_key_reloads_for_nobody(client):
    for headers in ({}, {"X-Admin-Key": ""}, {"X-Admin-Key": "guessed"}):
        reply = client.post("/admin/reload", json={"arm": "recgpt"}, headers=headers)
        assert reply.status_code == 403
        assert reply.json()["message"] == "this service has no --admin-key, so nobody may use /admin/reload"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"arm": "nobody"}, 404),
        ({"arm": "main", "bundle": "../own"}, 422),
        ({"arm": "main", "bundle": "/etc"}, 422),
        ({"arm": "main", "bundle": ".own.old"}, 422),
        ({"arm": "main", "bundle": "own", "rollback": True}, 422),
        ({"arm": "main", "bundle": "nowhere"}, 422),
        ({}, 422),
    ],
)
def test_a_bad_wish_is_refused(admin, body, status):
    assert admin.post("/admin/reload", json=body).status_code == status


def test_the_command_reloads_and_goes_back(reloading, run_recall):
    url, _ = reloading
    given = ("--url", url)
    first = run_recall("reload", "main", "--bundle", "other", *given, RECALL_ADMIN_KEY=ADMIN_KEY)
    assert (first.status, len(first.last_line["reloaded"])) == (0, 1)
    back = run_recall("reload", "--rollback", *given, RECALL_ADMIN_KEY=ADMIN_KEY).last_line["reloaded"][0]
    assert back["previous"] == first.last_line["reloaded"][0]["bundle"]
    refused = run_recall("reload", "main", "--bundle", "spoiled", *given, RECALL_ADMIN_KEY=ADMIN_KEY)
    assert (refused.status, "422 reload_refused: arm main: " in refused.sentence) == (2, True)
    assert "403 forbidden" in run_recall("reload", "main", *given, RECALL_ADMIN_KEY="wrong").sentence
