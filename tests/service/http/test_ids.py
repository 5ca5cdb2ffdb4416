"""Ids as strings, there and back: for clients whose numbers lose digits above 2^53."""

import httpx
import pytest


@pytest.fixture(scope="module")
def stringly(launch, arm_options):
    with launch(*arm_options, "--request-timeout-ms", "30000", "--string-ids", "true") as served:
        yield served


def ask(served, path, **body):
    reply = httpx.post(served.url + path, json=body, timeout=60)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_integers_may_be_sent_as_strings(recall, known):
    body = {"user_id": 503, "history": known[3:9], "exclude": known[20:40], "top_n": 20}
    strings = {"user_id": "503", "history": list(map(str, known[3:9])), "exclude": list(map(str, known[20:40]))}
    for arm in ("recgpt", "comirec"):
        assert recall(f"/recall/{arm}", **body | strings)["items"] == recall(f"/recall/{arm}", **body)["items"]


def test_every_id_is_answered_as_a_string_where_that_is_wanted(stringly, recall, known):
    body = {"history": known[3:9], "top_n": 20, "explain": True}
    for path in ("/recall/recgpt", "/recall/comirec"):
        plain, texts = recall(path, **body), ask(stringly, path, **body)
        assert texts["items"] == list(map(str, plain["items"]))
        assert texts["prompts"] == list(map(str, plain["prompts"]))
    [batched] = ask(stringly, "/recall/batch", requests=[body], arm="recgpt")["responses"]
    assert batched["items"] == ask(stringly, "/recall/recgpt", **body)["items"]
    assert all(isinstance(item, str) for item in ask(stringly, "/embed", history=known[3:9])["prompts"])
