"""Outcomes over HTTP: one request, a batch, vectors alone, with the cache and with reasons, as offline."""

import pytest

from service.engine.loading import load_arm
from service.engine.offline import OfflineArm

TOP_N = 30


@pytest.fixture(scope="module")
def offline(tiny, bundles):
    return OfflineArm(load_arm("offline", bundles["recgpt"], "cpu"), tiny)


@pytest.fixture(scope="module")
def histories(tiny):
    return [tiny.catalogue.items.external(tiny.history(row, "test").tolist()) for row in range(1, 9)]


@pytest.mark.parametrize("outcome", ["like", "follow"])
def test_lists_over_http_are_the_lists_offline(tiny, offline, recall, histories, outcome):
    users = tiny.catalogue.users.external(range(1, 9))
    rows = offline.asked_for(outcome).lists(range(1, 9), "test", TOP_N)
    expected = [tiny.catalogue.items.external(own) for own in rows]
    bodies = [
        {"user_id": user, "history": history, "top_n": TOP_N, "outcome": outcome}
        for user, history in zip(users, histories, strict=True)
    ]
    assert [recall("/recall/recgpt", **body)["items"] for body in bodies] == expected
    batch = recall("/recall/batch", requests=bodies, arm="recgpt")["responses"]
    assert [answer["items"] for answer in batch] == expected


def test_one_cached_vector_serves_every_outcome(recall, known):
    history = known[40:57]
    answers = [recall("/recall/recgpt", history=history, top_n=TOP_N, **more) for more in ({}, {"outcome": "like"}, {})]
    assert [answer["cache"] for answer in answers] == ["miss", "hit", "hit"]
    assert answers[0]["items"] == answers[2]["items"] != answers[1]["items"]


def test_an_explained_item_names_the_outcome(recall, known):
    answer = recall("/recall/recgpt", history=known[3:9], top_n=TOP_N, outcome="follow", explain=True)
    assert {*answer["sources"]} == {"follow"}
    assert {*recall("/recall/recgpt", history=known[3:9], explain=True)["sources"]} <= {"step1", "step2"}


def test_vectors_alone_are_those_of_the_outcome(recall, known):
    plain, liked = (recall("/embed", history=known[3:9], arm="recgpt", **more) for more in ({}, {"outcome": "like"}))
    assert len(plain["vectors"]) == len(liked["vectors"])
    assert plain["vectors"] != liked["vectors"]


@pytest.mark.parametrize(
    ("path", "outcome", "sentence"),
    [
        ("/recall/recgpt", "share", "outcome: 'share' is no outcome of it; there are like, follow"),
        ("/recall/comirec", "like", "outcome: 'like' is no outcome of it: its training knew none"),
        ("/recall/recgpt", "", "outcome: "),
        ("/recall/recgpt", 3, "outcome: "),
    ],
)
def test_what_is_no_outcome_is_refused_in_one_sentence(client, path, outcome, sentence):
    reply = client.post(path, json={"history": [], "outcome": outcome})
    assert (reply.status_code, reply.json()["code"]) == (422, "bad_request")
    assert reply.json()["message"].startswith(sentence)


def test_arms_tell_what_they_can_be_asked_for(client):
    arms = client.get("/arms").json()["arms"]
    assert (arms["recgpt"]["outcomes"], arms["comirec"]["outcomes"]) == (["like", "follow"], [])
