"""Rules of a request over HTTP: filters, caps, boosts, diversity, reasons; in batches and with the cache."""

from collections import Counter

import pytest

ARMS = pytest.mark.parametrize("arm", ["recgpt", "comirec"])


@pytest.fixture(scope="module")
def of_item(tiny):
    """The attributes of an external id."""
    frame = tiny.catalogue.attributes.frame
    return dict(zip(tiny.catalogue.items.ids.tolist(), frame.iter_rows(named=True), strict=True))


@ARMS
@pytest.mark.parametrize(
    ("body", "passes"),
    [
        ({"language": "en"}, lambda item: item["language"] == "en"),
        ({"category": {"in": [1, 12]}}, lambda item: {1, 12} & {*item["category"]}),
        ({"duration_s": {"lt": 40}, "is_live": False}, lambda item: (item["duration_s"] or 99) < 40),
        ({"not": {"author": {"lt": 7_020}}}, lambda item: item["author"] >= 7_020),
    ],
)
def test_a_filtered_list_is_full_and_passes(recall, known, of_item, arm, body, passes):
    answer = recall(f"/recall/{arm}", history=known[:9], top_n=50, filter=body)
    assert len(answer["items"]) == 50
    assert all(passes(of_item[item]) for item in answer["items"])
    assert not {*known[:9]} & {*answer["items"]}


def test_a_list_that_cannot_be_full_says_why(recall, known):
    answer = recall("/recall/recgpt", history=known[:9], top_n=50, filter={"author": 7_005})
    assert sorted(answer["items"]) == known[50:60]
    assert "rules_leave_fewer" in answer["degraded"]
    assert recall("/recall/recgpt", top_n=5, filter={"author": {"in": []}})["items"] == []


def test_filters_caps_and_boosts_leave_the_cached_vectors_valid(recall, known):
    history = known[90:111]
    plain = recall("/recall/recgpt", history=history, top_n=20)
    ruled = recall("/recall/recgpt", history=history, top_n=20, filter={"language": "de"}, caps={"author": 1})
    assert (plain["cache"], ruled["cache"]) == ("miss", "hit")
    assert recall("/recall/recgpt", history=history, top_n=20)["scores"] == plain["scores"]


@ARMS
@pytest.mark.parametrize(
    "nothing",
    [{"diversity": 0}, {"caps": {}}, {"boost": [{"weight": 0, "filter": {"language": "en"}}]}, {"boost": []}],
)
def test_rules_of_no_weight_are_no_rules(recall, known, arm, nothing):
    body = {"history": known[5:12], "top_n": 40}
    plain, ruled = recall(f"/recall/{arm}", **body), recall(f"/recall/{arm}", **body, **nothing)
    assert (ruled["items"], ruled["scores"]) == (plain["items"], plain["scores"])


def test_caps_hold_over_the_wire(recall, known, of_item):
    items = recall("/recall/comirec", history=known[:4], top_n=60, caps={"author": 2})["items"]
    assert len(items) == 60
    assert max(Counter(of_item[item]["author"] for item in items).values()) == 2


def test_reasons_are_columns_beside_the_items(recall, known):
    answer = recall("/recall/recgpt", history=known[:6], top_n=10, explain=True, filter={"language": "en"})
    reasons = answer["reasons"]
    assert [len(column) for column in reasons.values()] == [10] * 4
    assert all({*own} <= {*known[:6]} for own in reasons["similar"])
    assert all(0 < share <= 1 for own in reasons["shares"] for share in own)
    assert all(1 <= decile <= 10 for decile in reasons["popularity"])
    assert reasons["ranks"][0][0] == 1
    assert "reasons" not in recall("/recall/recgpt", history=known[:6], top_n=10)


def test_members_of_a_batch_have_their_own_rules(client, recall, known):
    bodies = [
        {"history": known[:5], "top_n": 10, "filter": {"language": "en"}},
        {"history": known[:5], "top_n": 10},
        {"history": known[:5], "top_n": 10, "filter": {"colour": 1}},
        {"history": known[:5], "top_n": 10, "diversity": 0.5, "explain": True},
    ]
    answers = client.post("/recall/batch", json={"requests": bodies, "arm": "recgpt"}).json()["responses"]
    assert answers[2]["code"] == "bad_request"
    for body, answer in zip(bodies, answers, strict=True):
        if "code" not in answer:
            assert answer["items"] == recall("/recall/recgpt", **body)["items"]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"filter": {}}, "filter: a filter is an object of attributes and conditions, and not empty"),
        ({"filter": {"colour": 1}}, "no attribute 'colour'; there are author, category"),
        ({"filter": {"author": {"in": "x"}}}, "filter: author.in: a list of values"),
        ({"filter": {"author": "x"}}, "author: it holds integers, so ask for such values"),
        ({"caps": {"duration_s": 2}}, "duration_s: a cap counts equal values, and it holds numbers"),
        ({"caps": {"colour": 2}}, "no attribute 'colour'"),
        ({"boost": [{"weight": 0.5}]}, "boost: either a filter, or attribute, half_life and now"),
        ({"boost": [{"weight": 0.5, "attribute": "uploaded"}]}, "boost: either a filter, or attribute"),
        ({"boost": [{"weight": 0.5, "filter": {"author": 1}, "now": 3}]}, "boost: either a filter, or attribute"),
        (
            {"boost": [{"weight": 0.5, "attribute": "language", "half_life": 1, "now": 1}]},
            "language: a decay needs numbers, and it holds text",
        ),
    ],
)
def test_rules_that_cannot_hold_are_refused_in_one_sentence(client, body, sentence):
    reply = client.post("/recall/recgpt", json={"top_n": 5, **body})
    assert (reply.status_code, reply.json()["code"]) == (422, "bad_request")
    assert reply.json()["message"].startswith(sentence)


@pytest.mark.parametrize(
    "body",
    [{"caps": {"author": 0}}, {"diversity": 2}, {"boost": [{"weight": 2, "filter": {"author": 1}}]}, {"filter": []}],
)
def test_rules_out_of_bounds_are_refused(client, body):
    assert client.post("/recall/recgpt", json=body).status_code == 422
