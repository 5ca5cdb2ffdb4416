"""The OpenAPI document against the running service (fault test 22): all checks of schemathesis, good and bad bodies."""

import warnings

import pytest
from hypothesis import HealthCheck, given, settings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own imports
    import schemathesis
    from schemathesis import GenerationMode

POSTS = ["/recall", "/recall/batch", "/recall/{arm}", "/embed", "/feedback"]
GETS = ["/health", "/ready", "/metrics", "/arms", "/version"]
FEW = settings(max_examples=50, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
TIMEOUT = "X-Request-Timeout-Ms"
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


@pytest.mark.parametrize("path", POSTS)
def test_what_the_document_allows_is_answered_as_it_says(api, path):
    @FEW
    @given(case=api[path]["POST"].as_strategy(generation_mode=GenerationMode.POSITIVE))
    def check(case):
        case.body = with_whole_numbers(case.body)
        if case.headers and TIMEOUT in case.headers:
            case.headers[TIMEOUT] = "60000"  # a deadline of 5e-324 ms is a rightful 504
        if case.path_parameters:
            case.path_parameters["arm"] = "recgpt"  # any other word is a rightful 404
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
