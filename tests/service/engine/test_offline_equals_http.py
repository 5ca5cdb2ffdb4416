"""Users get the lists that are measured offline: those of OfflineArm, over HTTP, while batches form."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from model.evaluation.protocol import EvalSplit
from service.engine.loading import load_arm
from service.engine.offline import OfflineArm, evaluate

TOP_N, CONCURRENCY = 50, 16


@pytest.fixture(scope="module")
def bodies(tiny):
    """The request of every user, as the client of a service would make it."""
    items, users = tiny.catalogue.items, tiny.catalogue.users
    rows = range(1, len(users) + 1)
    histories = [items.external(tiny.history(row, "test").tolist()) for row in rows]
    return [
        {"user_id": user, "history": history, "top_n": TOP_N}
        for user, history in zip(users.external(rows), histories, strict=True)
    ]


def expected_lists(tiny, bundle):
    offline = OfflineArm(load_arm("offline", bundle, "cpu"), tiny)
    rows = list(range(1, len(tiny.catalogue.users) + 1))
    return [tiny.catalogue.items.external(listed) for listed in offline.lists(rows, "test", TOP_N)]


def batches(client, arm):
    """(batches computed, requests in them) so far."""
    text = client.get("/metrics").text.splitlines()
    values = (line.split()[1] for part in ("count", "sum") for line in text if f'size_{part}{{arm="{arm}"' in line)
    return [float(value) for value in values]


@pytest.mark.parametrize("arm", ["recgpt", "comirec"])
def test_lists_over_http_are_the_lists_offline(tiny, bundles, client, recall, bodies, arm):
    before = batches(client, arm) or [0, 0]
    with ThreadPoolExecutor(CONCURRENCY) as threads:
        answers = list(threads.map(lambda body: recall(f"/recall/{arm}", **body), bodies))
    num_batches, num_requests = (now - then for now, then in zip(batches(client, arm), before, strict=True))
    assert [answer["items"] for answer in answers] == expected_lists(tiny, bundles[arm])
    assert num_batches < num_requests, "no batch formed: the test proves less than it says"


@pytest.mark.parametrize("arm", ["recgpt", "comirec"])
def test_lists_of_one_http_batch_are_the_lists_offline(tiny, bundles, recall, bodies, arm):
    answers = recall("/recall/batch", requests=bodies, arm=arm)["responses"]
    assert [answer["items"] for answer in answers] == expected_lists(tiny, bundles[arm])


def test_each_cutoff_is_measured_on_a_list_of_its_own(tiny, bundles):
    """Quotas are shares of the length asked for: a list of 10 is not the start of one of 20."""
    offline = OfflineArm(load_arm("offline", bundles["recgpt"], "cpu"), tiny)
    eval_split = EvalSplit.of(tiny, "test")
    both, alone = evaluate(offline, eval_split, [10, 20]), evaluate(offline, eval_split, [10])
    assert {name: both.metrics[name] for name in alone.metrics} == alone.metrics
    assert both.lists.shape[1] == 20
    users = eval_split.users.tolist()
    assert any(
        a != b[:10] for a, b in zip(offline.lists(users, "test", 10), offline.lists(users, "test", 20), strict=True)
    )
