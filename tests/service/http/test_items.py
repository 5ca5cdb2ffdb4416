"""Items that come and go while the service answers, in both layouts: listed, filtered, learnt, gone."""

import time

import httpx
import pytest

ADMIN = {"X-Admin-Key": "only-for-tests"}
NEW = 777_000


@pytest.fixture(scope="module", params=[0, 2], ids=["one process", "two http processes"])
def http(request, launch, arm_options):
    options = (*arm_options, "--admin-key", ADMIN["X-Admin-Key"], "--events-timeout-ms", "5000")
    with (
        launch(*options, "--request-timeout-ms", "30000", "--http-workers", str(request.param)) as served,
        httpx.Client(base_url=served.url, timeout=60) as client,
    ):
        yield client


def put(http, item, **body):
    reply = http.post("/items", json={"id": item, **body}, headers=ADMIN)
    assert reply.status_code == 200, reply.text
    return reply.json()["catalogue"]


def delete(http, item):
    reply = http.delete(f"/items/{item}", headers=ADMIN)
    assert reply.status_code == 200, reply.text
    return reply.json()["catalogue"]


def recall(http, arm="recgpt", **body):
    # a connection of its own: with several processes, each of them is asked sooner or later
    reply = httpx.post(f"{http.base_url}/recall/{arm}", json=body, timeout=60)
    assert reply.status_code == 200, reply.text
    return reply.json()


def test_a_deleted_item_leaves_every_list_and_comes_back(http, known):
    body = {"history": known[10:15], "top_n": 20}
    victim = recall(http, **body)["items"][0]
    number = delete(http, victim)
    for _ in range(8):
        answer = recall(http, **body, min_catalogue=number)
        assert victim not in answer["items"]
        assert answer["catalogue"] >= number
        assert len(answer["items"]) == 20
    back = put(http, victim)
    assert recall(http, **body, min_catalogue=back)["items"][0] == victim


def test_a_deleted_item_is_gone_soon_without_being_asked_for(http, known):
    body = {"history": known[40:45], "top_n": 20}
    victim = recall(http, "comirec", **body)["items"][0]
    delete(http, victim)
    time.sleep(1)
    assert all(victim not in recall(http, "comirec", **body)["items"] for _ in range(8))


def test_a_new_item_is_found_by_a_filter_of_its_attributes(http):
    number = put(http, NEW + 1, attributes={"author": 7_999, "category": [3], "language": "fr", "duration_s": 9})
    for body in ({"author": 7_999}, {"language": "fr", "duration_s": {"lt": 10}}):
        assert recall(http, top_n=5, filter=body, min_catalogue=number)["items"] == [NEW + 1]
    assert recall(http, top_n=5, filter={"language": "fr"}, exclude=[NEW + 1], min_catalogue=number)["items"] == []
    gone = delete(http, NEW + 1)
    assert recall(http, top_n=5, filter={"author": 7_999}, min_catalogue=gone)["items"] == []


def test_a_new_item_with_the_query_as_its_vector_is_first(http, known):
    history = known[60:66]
    [vector, *_] = http.post("/embed", json={"history": history, "arm": "recgpt"}).json()["vectors"]
    number = put(http, NEW + 2, vectors={"recgpt": [10 * value for value in vector]})
    for _ in range(8):
        answer = recall(http, history=history, top_n=10, explain=True, min_catalogue=number)
        assert answer["items"][0] == NEW + 2
        assert answer["reasons"]["popularity"][0] is None
    batch = {"requests": [{"history": history, "top_n": 3, "min_catalogue": number}] * 3, "arm": "recgpt"}
    answers = http.post("/recall/batch", json=batch).json()["responses"]
    assert all(answer["items"][0] == NEW + 2 for answer in answers)
    seen = recall(http, history=[*history, NEW + 2], top_n=10)
    assert NEW + 2 not in seen["items"]


def test_7_and_text_7_are_one_item_that_was_put(http, known):
    number = put(http, str(NEW + 5), attributes={"author": 7_995})
    body = {"filter": {"author": 7_995}, "min_catalogue": number, "top_n": 3}
    assert recall(http, **body)["items"] == [NEW + 5]
    assert recall(http, **body, exclude=[str(NEW + 5)])["items"] == []
    assert recall(http, **body, history=[*known[3:6], str(NEW + 5)])["items"] == []
    # lists of everything, in one block
    requests = [{"history": [known[3], *more], "top_n": 400} for more in ([], [str(NEW + 5)])]
    answers = http.post("/recall/batch", json={"requests": requests, "arm": "recgpt"}).json()["responses"]
    assert [NEW + 5 in answer["items"] for answer in answers] == [True, False]


@pytest.mark.parametrize(("item", "form"), [(NEW + 3, int), (NEW + 6, str)])
def test_a_new_item_moves_towards_its_watchers(http, known, item, form):
    number = put(http, item)
    before = place(http, item, known[100:108], number)
    for user in range(6):
        for watched in map(form, (*known[100:108], item)):
            body = {"user_id": f"{item} {user}", "item_id": watched, "action": "play"}
            assert http.post("/feedback", json=body).status_code == 202
    deadline = time.monotonic() + 20
    while not (after := place(http, item, known[100:108], number)) < before:
        assert time.monotonic() < deadline, (before, after)
        time.sleep(0.05)


def place(http, item, history, number):
    """The place of an item in a list of everything."""
    items = recall(http, "comirec", history=history, top_n=300, min_catalogue=number)["items"]
    return items.index(item)


def test_an_item_put_again_has_its_new_attributes_alone(http):
    put(http, NEW + 4, attributes={"author": 7_997})
    number = put(http, NEW + 4, attributes={"author": 7_998})
    assert recall(http, filter={"author": 7_997}, min_catalogue=number)["items"] == []
    assert recall(http, filter={"author": 7_998}, min_catalogue=number)["items"] == [NEW + 4]


def test_an_item_of_the_bundle_may_have_other_attributes(http, known):
    number = put(http, known[200], attributes={"author": 7_996})
    items = recall(http, filter={"author": 7_996}, min_catalogue=number, top_n=3)["items"]
    assert items == [known[200]]
    assert known[200] not in recall(http, filter={"author": 7_020}, min_catalogue=number, top_n=20)["items"]


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ({"id": "x"}, 422, "id: those of the arm recgpt are integers"),
        ({"id": 5, "attributes": {"colour": 1}}, 422, "attributes: no attribute 'colour'"),
        ({"id": 5, "attributes": {"author": "x"}}, 422, "attributes: author: it holds integers"),
        ({"id": 5, "vectors": {"recgpt": [1.0]}}, 422, "vectors: the arm recgpt takes 16 finite numbers"),
        ({"id": 5, "vectors": {"nobody": [1.0]}}, 422, "vectors: no arm is called 'nobody'"),
        ({"id": 10_001, "vectors": {"recgpt": [1.0] * 16}}, 422, "vectors: the bundle of the arm recgpt has a trained"),
    ],
)
def test_items_that_no_arm_can_take_are_refused(http, body, status, sentence):
    reply = http.post("/items", json=body, headers=ADMIN)
    assert (reply.status_code, reply.json()["message"][: len(sentence)]) == (status, sentence)


def test_items_need_the_admin_key(http):
    assert http.post("/items", json={"id": 5}).status_code == 401
    assert http.delete("/items/5", headers={"X-Admin-Key": "wrong"}).status_code == 403


@pytest.mark.parametrize(("item", "status"), [("5", 404), ("x", 422)])
def test_unknown_items_cannot_be_deleted(http, item, status):
    assert http.delete(f"/items/{item}", headers=ADMIN).status_code == status


def test_a_change_that_nobody_made_is_waited_for_and_then_told(http):
    reply = http.post("/recall/recgpt", json={"min_catalogue": 10**9})
    assert (reply.status_code, reply.json()["code"], reply.json()["retryable"]) == (503, "catalogue_behind", True)


def test_many_items_are_put_at_once_and_a_bad_one_harms_no_other(http, known):
    items = [{"id": NEW + 500 + n} for n in range(20)]
    items[3] = {"id": NEW + 503, "vectors": {"nobody": [1.0]}}
    items[11] = {"id": NEW + 511, "colour": "red"}
    reply = http.post("/items/batch", json={"items": items}, headers=ADMIN)
    assert reply.status_code == 200, reply.text
    answers = reply.json()["responses"]
    assert [n for n, own in enumerate(answers) if "catalogue" not in own] == [3, 11]
    assert answers[3]["message"].startswith("vectors: no arm is called 'nobody'")
    assert answers[11]["message"].startswith("colour: ")
    numbers = [own["catalogue"] for own in answers if "catalogue" in own]
    assert numbers == [*range(numbers[0], numbers[0] + 18)]
    body = {"history": known[10:15], "top_n": 50, "min_catalogue": numbers[-1]}
    assert recall(http, **body)["catalogue"] >= numbers[-1]
    # they are there to be deleted; the two that were refused are not
    for item in items:
        gone = http.delete(f"/items/{item['id']}", headers=ADMIN)
        assert gone.status_code == (404 if item in (items[3], items[11]) else 200)


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        ({"items": []}, 422, "items: "),
        ({"items": [{"id": n} for n in range(257)]}, 422, "items: at most 256"),
        ({"items": [3]}, 422, "items.0: "),
        ({"item": [{"id": 3}]}, 422, "items: Field required"),
    ],
)
def test_a_batch_that_is_none_is_refused(http, body, status, sentence):
    reply = http.post("/items/batch", json=body, headers=ADMIN)
    assert (reply.status_code, reply.json()["message"][: len(sentence)]) == (status, sentence)


def test_a_batch_needs_the_key(http):
    assert http.post("/items/batch", json={"items": [{"id": NEW}]}).status_code == 401


def test_items_that_come_faster_than_they_are_taken_are_refused_in_a_sentence(launch, arm_options):
    with (
        launch(*arm_options, "--admin-key", ADMIN["X-Admin-Key"], "--max-puts-per-s", "1") as served,
        httpx.Client(base_url=served.url, timeout=60, headers=ADMIN) as client,
    ):
        many = {"items": [{"id": NEW + n} for n in range(20)]}
        assert client.post("/items/batch", json=many).status_code == 200
        for path, body in (("/items/batch", many), ("/items", {"id": NEW})):
            refused = client.post(path, json=body)
            assert (refused.status_code, refused.json()["code"], refused.json()["retryable"]) == (
                429,
                "overloaded",
                True,
            )
            assert refused.json()["message"] == "items are put faster than 1 a second; send these again later"
            assert refused.headers["Retry-After"]
        # what must go goes
        assert client.delete(f"/items/{NEW}").status_code == 200
