"""Every rule of a request in every way to ask: alone, in a batch, from the cache, with reasons; in both layouts."""

from contextlib import ExitStack

import httpx
import pytest

from service.http.schemas import RecallRequest

TOP_N = 20
ADMIN = {"X-Admin-Key": "only-for-tests"}
NEW = 778_000
RULES = {
    "filter": {"filter": {"language": "en"}},
    "conjunction": {"filter": {"and": [{"language": {"in": ["en", "de"]}}, {"not": {"author": {"lt": 7_010}}}]}},
    "caps": {"caps": {"author": 1}},
    "boost": {"boost": [{"filter": {"language": "de"}, "weight": 1.0}]},
    "decay": {"boost": [{"attribute": "uploaded", "half_life": 20_000, "now": 400_000, "weight": 1.0}]},
    "diversity": {"diversity": 0.6},
    "all": {
        "filter": {"language": {"in": ["en", "de"]}},
        "caps": {"author": 3},
        "boost": [{"filter": {"language": "de"}, "weight": 0.5}],
        "diversity": 0.3,
    },
}


def alone(post, body):
    return post("/recall/recgpt", **body)


def in_a_batch(post, body):
    plain = {"history": body["history"], "top_n": 7}
    answers = post("/recall/batch", requests=[plain, body, plain], arm="recgpt")["responses"]
    assert [len(answer["items"]) for answer in answers] == [7, TOP_N, 7]
    return answers[1]


def from_the_cache(post, body):
    post("/recall/recgpt", **body)
    answer = post("/recall/recgpt", **body)
    assert answer["cache"] == "hit"
    return answer


def with_reasons(post, body):
    answer = post("/recall/recgpt", **body, explain=True)
    assert {len(column) for column in answer["reasons"].values()} == {TOP_N}
    assert {*map(len, (answer["items"], answer["scores"], answer["sources"]))} == {TOP_N}
    return answer


WAYS = [alone, in_a_batch, from_the_cache, with_reasons]


@pytest.fixture(scope="module")
def served(service, launch, arm_options):
    """The URLs of a service of one process and of one with HTTP processes of their own."""
    patient = ("--request-timeout-ms", "30000", "--engine-stall-ms", "60000", "--events-timeout-ms", "5000")
    options = ("--admin-key", ADMIN["X-Admin-Key"], "--fresh-share", "0.2", "--http-workers", "2")
    with launch(*arm_options, *patient, *options) as workers:
        yield {"one process": service.url, "workers": workers.url}


@pytest.fixture(params=["one process", "workers"])
def post(request, served):
    with ExitStack() as stack:
        client = stack.enter_context(httpx.Client(base_url=served[request.param], timeout=60, headers=ADMIN))

        def ask(path, **body):
            reply = client.post(path, json=body)
            assert reply.status_code == 200, reply.text
            return reply.json()

        yield ask


@pytest.mark.parametrize("rule", RULES)
def test_a_rule_gives_one_list_in_every_way(post, known, rule):
    body = {"history": known[20:31], "top_n": TOP_N, **RULES[rule]}
    plain = post("/recall/recgpt", history=known[20:31], top_n=TOP_N)
    answers = [way(post, body) for way in WAYS]
    assert {len(answer["items"]) for answer in answers} == {TOP_N}
    assert all(answer["items"] == answers[0]["items"] for answer in answers)
    # it does something
    assert answers[0]["items"] != plain["items"]


@pytest.mark.parametrize("way", WAYS)
def test_what_was_shown_is_left_out_in_every_way(post, known, way):
    body = {"user_id": f"unshown-{way.__name__}", "history": known[40:52], "top_n": TOP_N, "not_shown": True}
    first = post("/recall/recgpt", **body)
    second = way(post, body)
    assert len(second["items"]) == TOP_N
    assert not {*first["items"]} & {*second["items"]}


@pytest.mark.parametrize("way", WAYS)
def test_new_items_have_their_places_in_every_way(served, known, way):
    with httpx.Client(base_url=served["workers"], timeout=60, headers=ADMIN) as client:
        author, number = 7_600 + WAYS.index(way), 0
        for n in range(8):
            item = {"id": NEW + 10 * author + n, "attributes": {"author": author, "language": "fr"}}
            number = client.post("/items", json=item).json()["catalogue"]

        def post(path, **body):
            reply = client.post(path, json=body)
            assert reply.status_code == 200, reply.text
            return reply.json()

        rule = {"or": [{"author": author}, {"language": "en"}]}
        body = {"history": known[60:70], "top_n": TOP_N, "min_catalogue": number, "filter": rule}
        answer = way(post, body)
        fresh = [place for place, item in enumerate(answer["items"]) if item >= NEW]
        # a fifth of the list is kept for them, where fewer get in by their scores
        assert len(fresh) >= TOP_N // 5
        assert {*[answer["items"][place] // 10 - NEW // 10 for place in fresh]} == {author}


def test_every_rule_stands_in_an_example_of_the_document():
    shown = {name for example in RecallRequest.model_config["json_schema_extra"]["examples"] for name in example}
    assert {"filter", "caps", "boost", "diversity", "explain", "not_shown", "min_catalogue"} <= shown
