"""The OpenAPI document against the running service (fault test 22): all checks of schemathesis, good and bad bodies."""

import re
import shutil
import subprocess
import warnings

import pytest
from hypothesis import HealthCheck, given, settings

from service.stores.shown import MAX_SHOWN

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own imports
    import schemathesis
    from schemathesis import GenerationMode

POSTS = ["/recall", "/recall/batch", "/recall/{arm}", "/embed", "/feedback", "/feedback/batch", "/admin/reload"]
GETS = ["/health", "/ready", "/metrics", "/arms", "/version", "/experiments/{key}/report"]
FEW = settings(max_examples=50, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
TIMEOUT, SESSION = "X-Request-Timeout-Ms", "X-Session-Id"
MAX_BODY_BYTES = 65_536


@pytest.fixture(scope="module")
def api(service):
    return schemathesis.openapi.from_url(f"{service.url}/openapi.json")


def with_whole_numbers(value):
    """1.0 as 1: both are integers to JSON Schema, and only the second to this service."""
    if isinstance(value, dict):
        return {name: with_whole_numbers(member) for name, member in value.items()}
    if isinstance(value, list):
        return list(map(with_whole_numbers, value))
    return int(value) if isinstance(value, float) and value.is_integer() else value


OF_THE_BUNDLE = ("filter", "caps", "boost", "min_catalogue", "attributes", "vectors", "outcome")


@pytest.mark.parametrize("path", POSTS)
def test_what_the_document_allows_is_answered_as_it_says(api, path):
    @FEW
    @given(case=api[path]["POST"].as_strategy(generation_mode=GenerationMode.POSITIVE))
    def check(case):
        case.body = with_whole_numbers(case.body)
        for name in OF_THE_BUNDLE:
            # attributes and outcomes have the names that the bundle gives them, which no document knows
            case.body.pop(name, None)
        if case.body.get("user_id") is None or case.body.get("top_n", 0) > MAX_SHOWN:
            # without a user there is no memory, and a longer list would not fit into it: rightful 422s
            case.body.pop("not_shown", None)
        if case.headers and TIMEOUT in case.headers:
            case.headers[TIMEOUT] = "60000"  # a deadline of 5e-324 ms is a rightful 504
        if case.headers and SESSION in case.headers:
            case.body.pop("session_id", None)  # two sessions are a rightful 422
        if case.path_parameters:
            case.path_parameters["arm"] = "recgpt"  # any other word is a rightful 404
        if path == "/feedback":
            # an action of long ago, or longer than any video, is a rightful 422
            case.body = {name: value for name, value in case.body.items() if not name.endswith("_ms")}
            case.body["user_id"] = case.body.get("user_id") or "u"  # and so is one of nobody
        case.call_and_validate()

    check()


@pytest.mark.parametrize("path", POSTS)
def test_what_the_document_forbids_is_refused_as_it_says(api, path):
    @FEW
    @given(case=api[path]["POST"].as_strategy(generation_mode=GenerationMode.NEGATIVE))
    def check(case):
        answer = case.call()
        if answer.status_code == 413:
            # a list longer than allowed may make a body longer than allowed: schemathesis does not expect that
            assert len(answer.request.body) > MAX_BODY_BYTES
        else:
            case.validate_response(answer)

    check()


@pytest.mark.parametrize("path", GETS)
def test_operations_answer_as_the_document_says(api, path):
    @settings(FEW, max_examples=1)
    @given(case=api[path]["GET"].as_strategy())
    def check(case):
        case.call_and_validate()

    check()


def operations_of(document):
    return [operation for methods in document["paths"].values() for operation in methods.values()]


def test_operations_have_the_names_of_the_handlers(client):
    names = [operation["operationId"] for operation in operations_of(client.get("/openapi.json").json())]
    assert sorted(names) == [
        *(
            "arms",
            "delete_item",
            "embed",
            "experiment_report",
            "feedback",
            "feedback_batch",
            "health",
            "metrics",
            "put_item",
            "put_items",
            "ready",
            "recall",
            "recall_batch",
            "recall_pinned",
        ),
        *("reload", "version"),
    ]


def test_every_good_answer_has_a_schema(client):
    for operation in operations_of(client.get("/openapi.json").json()):
        answers = {status: answer for status, answer in operation["responses"].items() if status < "300"}
        assert [*answers] in (["200"], ["202"])
        for answer in answers.values():
            assert all(content["schema"] for content in answer["content"].values()), operation["operationId"]


def test_description_says_what_the_service_does_and_tags_too(client):
    document = client.get("/openapi.json").json()
    assert document["info"]["description"].startswith("Candidate generation")
    tags = {tag for operation in operations_of(document) for tag in operation["tags"]}
    assert tags == {tag["name"] for tag in document["tags"]}


def test_docs_page_loads_nothing_from_elsewhere(client):
    page = client.get("/docs")
    links = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert (page.status_code, len(links)) == (200, 3)
    for link in links:
        assert link.startswith("/docs/"), link
        asset = client.get(link)
        assert (asset.status_code, len(asset.content) > 1000) == (200, True)


def test_docs_page_has_no_other_files(client):
    assert client.get("/docs/redoc.standalone.js").json()["code"] == "bad_request"
    assert client.get("/docs/..%2fcore.py").status_code == 404


CHROMIUM = shutil.which("chromium")


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium to open the page /docs")
def test_docs_page_shows_the_operations_in_a_browser(service, tmp_path):
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
    command += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
    command += [f"--user-data-dir={tmp_path}", "--virtual-time-budget=20000", "--dump-dom", f"{service.url}/docs"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout
    for text in ("Candidate generation", "operations-recall-recall_batch", "operations-events-feedback"):
        assert text in shown


def test_document_has_the_bounds_of_this_service(client):
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    assert schemas["RecallRequest"]["properties"]["top_n"]["maximum"] == 1000
    assert schemas["BatchRequest"]["properties"]["requests"]["maxItems"] == 256


@pytest.mark.parametrize("path", ["/recall", "/recall/batch", "/embed", "/feedback"])
def test_examples_of_the_document_work(client, path):
    document = client.get("/openapi.json").json()
    schema = document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"]
    for example in document["components"]["schemas"][schema.rsplit("/", 1)[1]]["examples"]:
        assert client.post(path, json=example).status_code in {200, 202}


def test_no_request_was_a_server_error(service):
    assert '"status": 500' not in service.log.read_text()
