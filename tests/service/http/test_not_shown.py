"""not_shown: no item twice for a user, in both layouts, in batches, beside each other; refused where it cannot hold."""

import asyncio
import random
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import httpx
import pytest

from benchmarks.never_again import Tally, User, visit

TOP_N = 12


@pytest.fixture(scope="module", params=["one process", "workers"])
def ask(request, service, launch, arm_options, bundles):
    """A function that posts to a service of either layout and wants an answer."""

    with ExitStack() as stack:
        served = service
        if request.param == "workers":
            patient = ("--request-timeout-ms", "30000", "--engine-stall-ms", "60000", "--events-timeout-ms", "5000")
            words = ("--arm", f"words={bundles['words']}")
            served = stack.enter_context(launch(*arm_options, *words, *patient, "--http-workers", "2"))
        client = stack.enter_context(httpx.Client(base_url=served.url, timeout=60))

        def post(path, **body):
            reply = client.post(path, json=body)
            assert reply.status_code in (200, 202), reply.text
            return reply.json()

        yield post


def body(user, known, **more):
    return {"user_id": user, "history": known[5:9], "top_n": TOP_N, "not_shown": True, **more}


def test_no_item_is_listed_twice_for_a_user(ask, known):
    lists = [ask("/recall/recgpt", **body("twice", known))["items"] for _ in range(8)]
    assert all(len(items) == TOP_N for items in lists)
    assert len({item for items in lists for item in items}) == 8 * TOP_N
    # another user, and whoever does not ask for it, get the best
    assert ask("/recall/recgpt", **body("twice-b", known))["items"] == lists[0]
    assert ask("/recall/recgpt", **body("twice", known, not_shown=False))["items"] == lists[0]


def test_arms_and_paths_share_one_memory(ask, known):
    lists = [ask(f"/recall/{arm}", **body("shared", known))["items"] for arm in ("recgpt", "comirec", "recgpt")]
    lists.append(ask("/recall", **body("shared", known))["items"])
    lists += [own["items"] for own in ask("/recall/batch", requests=[body("shared", known)] * 3)["responses"]]
    assert len({item for items in lists for item in items}) == len(lists) * TOP_N


def test_lists_that_are_made_at_once_share_nothing(ask, known):
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: ask("/recall/recgpt", **body("at-once", known)), range(4)))
    assert not [label for answer in answers for label in answer["degraded"] if label.startswith("shown")]
    assert len({item for answer in answers for item in answer["items"]}) == 4 * TOP_N


def test_what_was_watched_and_hidden_is_left_out_too(ask, known):
    first = ask("/recall/recgpt", **body("own", known, not_shown=False))["items"]
    for action, item in (("play", first[0]), ("hide", first[1])):
        ask("/feedback", user_id="own", item_id=item, action=action)
    plain = ask("/recall/recgpt", **body("own", known, not_shown=False))["items"]
    assert first[0] in plain, "a history that is sent is taken as it is"
    assert not {*first[:2]} & {*ask("/recall/recgpt", **body("own", known))["items"]}


def test_rules_hold_beside_it_and_lists_say_when_nothing_is_left(ask, known):
    answers = [ask("/recall/recgpt", **body("few", known, filter={"is_live": True})) for _ in range(2)]
    assert 0 < len(answers[0]["items"]) <= 6
    assert answers[1]["items"] == []
    assert "rules_leave_fewer" in answers[1]["degraded"]


def test_string_ids_are_remembered_as_well(ask):
    told = {"user_id": "ü001", "history": ["clip-004"], "top_n": TOP_N, "not_shown": True}
    lists = [ask("/recall/words", **told)["items"] for _ in range(3)]
    assert len({item for items in lists for item in items}) == 3 * TOP_N


def test_it_needs_a_user_and_a_list_that_it_can_remember(client, known):
    for change, sentence in ({"user_id": None}, "needs a user_id"), ({"top_n": 421}, "at most 420"):
        reply = client.post("/recall/recgpt", json=body("u", known) | change)
        assert reply.status_code == 422
        assert sentence in reply.json()["message"]


def test_many_answers_leak_nothing(service, known):
    """The short form of benchmarks/never_again.py: lists of 20, until nothing is left of the catalogue."""

    async def main():
        tally = Tally()
        async with httpx.AsyncClient(base_url=service.url, timeout=60) as client:
            users = [User(f"leak-{n}", known, random.Random(n)) for n in range(8)]
            await asyncio.gather(*(visit(client, user, tally) for user in users))
        return tally

    tally = asyncio.run(main())
    assert (tally.leaks, tally.refused.total(), tally.labels.total()) == (0, 0, 0)
    assert tally.answers > 80
    assert tally.items > 1_600
