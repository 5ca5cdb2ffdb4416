"""API keys over HTTP, in both process layouts: every route asks for its scope, keys change while they are used."""

import json
import time
import warnings
from contextlib import closing
from http.client import HTTPConnection

import httpx
import pytest
from hypothesis import HealthCheck, given, settings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own imports
    import schemathesis

from service.access.keys import Scope, new_key
from service.bootstrap import engines_at
from service.http.app import create_app
from service.http.auth import NEEDED
from service.settings import Settings

PATIENT = (
    *("--request-timeout-ms", "30000", "--redis-timeout-ms", "5000", "--events-timeout-ms", "5000"),
    *("--engine-stall-ms", "60000", "--target-wait-ms", "5000"),
)
LAYOUTS = {"one process": (), "workers": ("--http-workers", "2")}
LOADED_S = 60
APP = create_app(Settings(api_keys=new_key("any", ["qa"])[1].line), engines_at("ipc:///nowhere"))
ROUTES = sorted(
    (method, route.path) for route in APP._all_routes() for method in route.methods or () if method != "HEAD"
)
GUARDED = [(method, path) for method, path in ROUTES if NEEDED[path]]


class Keys:
    """A key of each single scope, and one of each scope's absence, in a file."""

    def __init__(self, path):
        self.path = path
        self.only = {scope: new_key(f"only-{scope}", [scope]) for scope in Scope}
        self.without = {scope: new_key(f"no-{scope}", [s for s in Scope if s is not scope]) for scope in Scope}
        self.both = new_key("tester", ["recall", "qa"])
        self.limited = new_key("slow", ["recall"], 1)
        self.write(*self.all)

    @property
    def all(self):
        return [*self.only.values(), *self.without.values(), self.both, self.limited]

    @property
    def secrets(self):
        return [secret for secret, _ in self.all]

    def write(self, *keys):
        # in one step, as an operator should
        fresh = self.path.with_suffix(".new")
        fresh.write_text("\n".join(key.line for _, key in keys))
        fresh.rename(self.path)


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    return Keys(tmp_path_factory.mktemp("keys") / "keys")


@pytest.fixture(scope="module", params=LAYOUTS)
def guarded(request, launch, arm_options, keys):
    with launch(*arm_options, *PATIENT, *LAYOUTS[request.param], "--api-keys-file", str(keys.path)) as served:
        yield served


@pytest.fixture
def http(guarded):
    with httpx.Client(base_url=guarded.url, timeout=60) as client:
        yield client


def bearing(secret):
    return {"Authorization": f"Bearer {secret}"}


def target(path):
    """The path of a request to a route."""
    return path.replace("{arm}", "recgpt").replace("{item}", "10001").replace("{name}", "favicon.png")


def refused(reply, status, code):
    assert (reply.status_code, reply.json()["code"]) == (status, code), reply.text
    assert reply.json()["retryable"] is False
    return reply.json()["message"]


def test_every_route_of_the_app_is_known_and_has_its_scopes():
    documented = {(method.upper(), path) for path, methods in APP.openapi()["paths"].items() for method in methods}
    assert documented <= set(ROUTES)
    assert {path for _, path in ROUTES} == set(NEEDED)
    assert {path for _, path in ROUTES if not NEEDED[path]} == {
        *("/health", "/ready", "/docs", "/docs/{name}", "/openapi.json")
    }


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_every_route_asks_for_its_scope(http, keys, method, path):
    def ask(headers=None):
        return http.request(method, target(path), headers=headers)

    if not NEEDED[path]:
        assert ask().status_code in (200, 503)
        return
    assert refused(ask(), 401, "unauthorized") == (
        f"{method} {path} needs an API key, in the header Authorization: Bearer KEY"
    )
    assert ask().headers["www-authenticate"] == "Bearer"
    refused(ask(bearing("rk_wrong")), 403, "forbidden")
    for scope in Scope:
        reply = ask(bearing(keys.only[scope][0]))
        if scope in NEEDED[path]:
            # an empty body, or an item that is there: anything but a word about keys
            assert reply.status_code in (200, 400, 404, 422), reply.text
        else:
            assert "needs an API key with the scope" in refused(reply, 403, "forbidden")
    if len(NEEDED[path]) == 1:
        refused(ask(bearing(keys.without[NEEDED[path][0]][0])), 403, "forbidden")


# the router takes a line feed at the end, and any byte may be written as %..; a method does not change the scope
DISGUISES = [
    ("POST", "/admin/reload%0A"),
    ("POST", "/%61dmin/reload"),
    ("POST", "/admin%2Freload"),
    ("PUT", "/admin/reload"),
    ("HEAD", "/metrics"),
    ("GET", "/arms?key=1"),
    ("POST", "/recall/batch%0A"),
    ("POST", "/recall/recgpt%0A"),
    ("POST", "/%72ecall"),
]


@pytest.mark.parametrize(("method", "path"), DISGUISES)
def test_no_disguise_of_a_path_gets_past(http, method, path):
    assert http.request(method, path, content=b"{}").status_code == 401


@pytest.mark.parametrize("path", ["/", "/nowhere", "//recall", "/recall/", "/recall/a/b", "/Recall", "/ready/x"])
def test_unknown_path_is_not_found_with_and_without_a_key(http, keys, path):
    for headers in (None, bearing(keys.only[Scope.RECALL][0])):
        reply = http.post(path, content=b"{}", headers=headers)
        assert (reply.status_code, reply.json()["message"]) == (404, "Not Found")


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "{}"},
        {"Authorization": "Basic {}"},
        {"Authorization": "Bearer{}"},
        {"X-API-Key": "{}"},
        {"X-Admin-Key": "{}"},
        {"Cookie": "Authorization=Bearer {}"},
    ],
)
def test_a_key_in_any_other_place_is_none(http, keys, headers):
    secret = keys.only[Scope.RECALL][0]
    sent = {name: value.format(secret) for name, value in headers.items()}
    reply = http.post("/recall", json={}, headers=sent, params={"key": secret, "Authorization": f"Bearer {secret}"})
    refused(reply, 401, "unauthorized")


@pytest.mark.parametrize("value", ["Bearer !", "Bearer ü", "Bearer a b", "bearer rk_", "BEARER " + 5000 * "x"])
def test_odd_keys_are_refused(http, value):
    refused(http.post("/recall", json={}, headers={"Authorization": value.encode("latin-1")}), 403, "forbidden")


def test_answers_are_those_of_a_service_without_keys(http, keys, recall):
    answer = http.post("/recall/recgpt", json={"history": [10001, 10008]}, headers=bearing(keys.only[Scope.RECALL][0]))
    assert answer.json()["items"] == recall("/recall/recgpt", history=[10001, 10008])["items"]


def test_a_forced_variation_needs_the_scope_qa_beside_recall(http, keys):
    forced = {"X-AB-Bucket": "recgpt"}
    lists, tester = keys.only[Scope.RECALL][0], keys.both[0]
    refused(http.post("/recall", json={}, headers=forced | bearing(lists)), 403, "forbidden")
    refused(http.post("/recall", json={}, headers=forced | bearing(lists) | {"X-QA-Key": ""}), 403, "forbidden")
    refused(http.post("/recall", json={}, headers=forced | bearing(keys.only[Scope.QA][0])), 403, "forbidden")
    answer = http.post("/recall", json={"user_id": 1}, headers=forced | bearing(tester)).json()
    assert (answer["arm"], answer["experiment"]["reason"]) == ("recgpt", "forced")


def test_a_key_that_asks_too_often_waits(http, keys):
    statuses = [http.post("/recall", json={}, headers=bearing(keys.limited[0])) for _ in range(12)]
    late = [reply for reply in statuses if reply.status_code == 429]
    assert late
    assert (late[0].json()["code"], late[0].headers["Retry-After"]) == ("overloaded", "1")
    assert http.post("/recall", json={}, headers=bearing(keys.only[Scope.RECALL][0])).status_code == 200


def status_on_a_new_connection(url, secret):
    """The status of any process: the system chooses one for each connection."""
    with closing(HTTPConnection(url.removeprefix("http://"), timeout=60)) as connection:
        connection.request("POST", "/recall", b"{}", bearing(secret))
        return connection.getresponse().status


def until_everywhere(url, secret, status):
    deadline, streak = time.monotonic() + LOADED_S, 0
    while streak < 20:
        streak = streak + 1 if status_on_a_new_connection(url, secret) == status else 0
        assert time.monotonic() < deadline, "not in force everywhere in time"


def test_metrics_count_requests_by_the_name_of_their_key(http, keys):
    http.post("/recall", json={}, headers=bearing(keys.both[0]))
    shown = http.get("/metrics", headers=bearing(keys.only[Scope.ADMIN][0])).text
    assert 'recall_api_key_requests_total{key="tester"}' in shown
    assert 'recall_requests_total{route="/admin/reload",status="401"}' in shown


def test_no_key_and_no_hash_is_in_a_log_or_a_metric(guarded, http, keys):
    told = guarded.log.read_text() + http.get("/metrics", headers=bearing(keys.only[Scope.ADMIN][0])).text
    for secret, key in keys.all:
        assert secret not in told
        assert key.digest.hex() not in told
    assert "rk_wrong" not in told


def test_the_document_says_what_a_route_needs(http):
    document = http.get("/openapi.json").json()
    assert document["components"]["securitySchemes"]["ApiKey"]["scheme"] == "bearer"
    for path, operations in document["paths"].items():
        for operation in operations.values():
            scopes = [needed for either in operation.get("security", ()) for needed in either["ApiKey"]]
            assert tuple(scopes) == NEEDED[path]
            assert {"401", "403", "429"} <= set(operation["responses"]) or not scopes
            names = {parameter["name"] for parameter in operation.get("parameters", ())}
            assert names.isdisjoint({"X-QA-Key", "X-Admin-Key"})


def test_commands_bear_a_key(guarded, keys, run_recall):
    given = ("--url", guarded.url)
    asked = ("query", "--history", "10001", "--arm", "recgpt", *given)
    assert run_recall(*asked, RECALL_API_KEY=keys.only[Scope.RECALL][0]).status == 0
    assert "401 unauthorized" in run_recall(*asked).sentence
    assert "no key has" in run_recall(*asked, RECALL_API_KEY="ü").sentence
    reloaded = run_recall("reload", *given, RECALL_API_KEY=keys.only[Scope.ADMIN][0]).last_line["reloaded"]
    assert [outcome["changed"] for outcome in reloaded] == [False, False]


def test_keys_change_while_they_are_used(guarded, http, keys):
    """The last test with this service: the file comes back, the keys in force may be a second behind."""
    old, new = keys.only[Scope.RECALL], new_key("fresh", ["recall"])
    try:
        keys.path.write_text("feed recall rk_S3CRET")
        deadline = time.monotonic() + LOADED_S
        while "api_keys_refused" not in http.get("/ready").json()["degraded"]:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert status_on_a_new_connection(guarded.url, old[0]) == 200
        assert status_on_a_new_connection(guarded.url, new[0]) == 403
        shown = http.get("/metrics", headers=bearing(keys.only[Scope.MONITOR][0])).text
        assert "recall_api_keys_refused 0.0" not in shown
        keys.write(*(pair for pair in keys.all if pair is not old), new)
        until_everywhere(guarded.url, new[0], 200)
        until_everywhere(guarded.url, old[0], 403)
    finally:
        keys.write(*keys.all)
    assert "S3CRET" not in guarded.log.read_text()


@pytest.mark.parametrize("path", ["/arms", "/version", "/ready", "/health"])
def test_what_the_document_says_is_what_is_answered(guarded, keys, path):
    api = schemathesis.openapi.from_url(f"{guarded.url}/openapi.json")

    @settings(max_examples=1, database=None, suppress_health_check=list(HealthCheck))
    @given(case=api[path]["GET"].as_strategy())
    def check(case):
        # with the right key, the wrong one and none
        for secret in (keys.only[Scope.MONITOR][0], keys.only[Scope.RECALL][0], "rk_wrong"):
            case.validate_response(case.call(headers=bearing(secret)))
        case.validate_response(case.call(headers={"Authorization": ""}))

    check()


def test_a_service_without_keys_says_nothing_of_them(client):
    text = client.get("/openapi.json").text
    assert "ApiKey" not in text
    assert "api_key" not in client.get("/metrics").text
    assert client.post("/recall", json={}, headers=bearing("rk_any")).status_code == 200


def test_keys_of_the_environment_are_in_force(launch, arm_options):
    secret, key = new_key("feed", ["recall"])
    with launch(*arm_options, *PATIENT, RECALL_API_KEYS=f"{key.line};") as served:
        assert httpx.post(f"{served.url}/recall", json={}, headers=bearing(secret)).status_code == 200
        assert httpx.post(f"{served.url}/recall", json={}).status_code == 401


@pytest.mark.parametrize("layout", LAYOUTS)
def test_unusable_keys_are_refused_before_the_bundles_are_opened(run_recall, arm_options, tmp_path, layout):
    path = tmp_path / "keys"
    path.write_text(json.dumps({"feed": "rk_S3CRET"}))
    serve = ("serve", *arm_options, *LAYOUTS[layout], "--port", 0, "--state-dir", tmp_path, "--api-keys-file", path)
    refused = run_recall(*serve)
    assert refused.status == 2
    assert f"{path}, line 1: it is NAME SCOPES sha256:HASH" in refused.sentence
    assert "S3CRET" not in refused.sentence
