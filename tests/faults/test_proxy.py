"""A Redis whose replies are late, sliced, reset, cut or missing: every answer is whole and the right one."""

import httpx
import pytest

from benchmarks.fault_proxy import Fault, FaultProxy
from service.stores.embedded_redis import EmbeddedRedis

BODIES = [{"user_id": n, "history": [10_001 + 7 * n, 10_008 + 7 * n], "top_n": 10} for n in range(20)]


@pytest.fixture(scope="module")
def proxy(tmp_path_factory):
    with (
        EmbeddedRedis(tmp_path_factory.mktemp("spoilt")) as server,
        FaultProxy(server.url.removeprefix("unix://")) as running,
    ):
        yield running


@pytest.fixture(scope="module")
def ask(launch, arm_options, proxy):
    # no memory before Redis: its replies are the ones that count
    options = ("--redis-url", proxy.url, "--memory-cache-mb", "0", "--request-timeout-ms", "30000")
    with launch(*arm_options, *options) as served, httpx.Client(base_url=served.url, timeout=60) as client:
        yield lambda body: client.post("/recall/recgpt", json=body)


@pytest.fixture(scope="module")
def expected(ask):
    return [ask(body).json()["items"] for body in BODIES]


@pytest.mark.parametrize("fault", Fault)
def test_no_spoilt_reply_changes_a_list(ask, expected, proxy, fault):
    proxy.set(fault)
    try:
        replies = [ask(body) for body in BODIES]
    finally:
        proxy.set(Fault.NONE)
    assert {reply.status_code for reply in replies} == {200}
    assert [reply.json()["items"] for reply in replies] == expected


def test_replies_were_spoilt(ask, expected, proxy):
    assert proxy.num_spoilt > 0
