"""Results of graphs as the engine gives them; what graphs refuse is the general path's."""

import asyncio

import numpy as np
import polars as pl
import pytest

from index.exact import ExactIndex
from model.attributes.filters import canonical
from model.attributes.table import Attributes
from model.catalogue import Catalogue, IdMap
from model.device.layout import Answers
from model.device.recall import Ticket
from model.records import History, ServingPlan
from model.rules import ListRules
from service.catalogue.live import LiveItems
from service.engine.arms import ArmSlot, Release
from service.engine.blocks import RequestBlock
from service.engine.collector import EngineCollector
from service.engine.compute import BatchCompute, ComputeCounters
from service.engine.engine import Engine
from service.engine.finding import ServedItems
from service.engine.graphs import GraphCompute, answers_of, columns_of
from service.engine.messages import EngineLimits, EngineRequest
from service.errors import EngineFailed
from service.stores.vector_cache import MemoryVectorCache

ITEMS = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
COLORS = Attributes(pl.DataFrame({"color": [n % 2 for n in range(60)]}))
CATALOGUE = Catalogue(IdMap.of(range(60)), IdMap.of([]), np.arange(60), attributes=COLORS)


class LastItem:
    def encode(self, histories):
        from model.records import QueryVectors

        vectors = np.stack([ITEMS[(h.items or (1,))[-1] - 1][None] for h in histories])
        return QueryVectors(vectors, np.zeros((len(histories), 0), dtype=np.int64))


class Recall:
    """Answers as a device does, by the general path; one batch of at most five at a time, in order."""

    def __init__(self, general, width=20, doubtful=()):
        self.general, self.width, self.doubtful, self.max_batch = general, width, doubtful, 5
        self.max_tokens = 5 * 21
        self.sizes, self.asked = [], {}

    def takes_all(self, longest, most):
        return longest <= self.width and most <= 3

    def refuses(self, limit, num_excluded):
        return "long_list" if limit > self.width else "many_excluded" if num_excluded > 3 else ""

    def start(self, columns):
        self.sizes.append(columns.size)
        self.asked[len(self.sizes)] = columns
        return Ticket(len(self.sizes), columns.size)

    def finish(self, ticket):
        columns = self.asked.pop(ticket.lane)
        requests = [EngineRequest(*user) for user in columns.records()]
        answers = answers_of(self.general.run(requests), self.width)
        doubt = np.array([request.history.items in self.doubtful for request in requests], dtype=np.int32)
        return Answers(np.where(doubt[:, None], 0, answers.rows), *answers[1:5], doubt)


def asked(count, limit=20, **more):
    return [EngineRequest(History((number % 60 + 1, number % 7 + 1)), limit, **more) for number in range(count)]


@pytest.fixture
def general():
    index = ExactIndex(ITEMS)
    return BatchCompute(LastItem(), index, ServingPlan(), served=ServedItems(LiveItems(CATALOGUE), index))


def same(ours, theirs):
    for mine, other in zip(ours, theirs, strict=True):
        for column, expected in zip(mine.merged, other.merged, strict=True):
            np.testing.assert_array_equal(column, expected)
        np.testing.assert_array_equal(mine.vectors.vectors, other.vectors.vectors)


def test_parts_follow_one_another_and_keep_their_order(general):
    compute = GraphCompute(Recall(general), general)
    same(compute.run(asked(10)), general.run(asked(10)))
    assert compute.recall.sizes == [5, 5]
    assert compute.run([]) == []


def test_lists_end_at_their_limit(general):
    requests = [EngineRequest(History((3,)), limit) for limit in (20, 0, 7)]
    assert [len(result.merged.rows) for result in GraphCompute(Recall(general), general).run(requests)] == [20, 0, 7]


def test_requests_that_a_graph_refuses_take_the_general_path_and_are_counted(general):
    rules = ListRules(canonical({"color": 1}))
    requests = [*asked(1), *asked(1, 30), *asked(1, excluded={1, 2, 3, 4}), *asked(1), *asked(1, rules=rules)]
    compute = GraphCompute(Recall(general), general)
    same(compute.run(requests), general.run(requests))
    assert compute.recall.sizes == [2]
    assert compute.refused == {"long_list": 1, "many_excluded": 1, "filtered": 1}


def test_a_batch_that_is_refused_whole(general):
    compute = GraphCompute(Recall(general), general)
    same(compute.run(asked(3, 30)), general.run(asked(3, 30)))
    assert compute.recall.sizes == []


def test_users_in_doubt_are_answered_again(general):
    compute = GraphCompute(Recall(general, doubtful={(2, 2), (3, 3)}), general)
    same(compute.run(asked(4)), general.run(asked(4)))
    assert compute.refused == {"in_doubt": 2}


def test_columns_keep_the_history_that_is_excluded_itself():
    history = History((1, 2))
    columns = columns_of([EngineRequest(history, 3, history.items)])
    assert columns.own.tolist() == [True]
    assert columns.other_lengths.tolist() == [0]


def test_an_engine_of_graphs_leaves_the_cache_alone(general):
    requests = [EngineRequest(request.history, 20, key=b"%d" % number) for number, request in enumerate(asked(9))]
    cache = MemoryVectorCache()

    async def ask():
        engine = Engine(GraphCompute(Recall(general), general), cache=cache)
        results = await asyncio.gather(*map(engine.ask, requests))
        again = await engine.ask(requests[0])
        await engine.close()
        return results, again

    results, again = asyncio.run(ask())
    same(results, general.run(requests))
    assert (cache.misses, cache.num_bytes, again.known) == (0, 0, False)


def test_what_a_graph_refuses_is_a_metric(general):
    compute = GraphCompute(Recall(general), general)
    compute.run(asked(1, limit=21))
    counters = ComputeCounters(graph_refused=compute.refused)
    release = Release("recgpt", "recgpt", "b", None, general.plan, "d", 5, None, counters=counters)
    metrics = {metric.name: metric for metric in EngineCollector({"recgpt": ArmSlot(release)}).collect()}
    [sample] = metrics["recall_graph_refused"].samples
    assert (sample.labels, sample.value) == ({"arm": "recgpt", "reason": "long_list"}, 1)


@pytest.mark.parametrize(("wanted", "sizes"), [(None, [5, 4]), (2, [1] * 9)])
def test_a_graph_fills_its_batches_unless_the_setting_says_otherwise(general, wanted, sizes):
    recall = Recall(general)

    async def ask():
        engine = Engine(GraphCompute(recall, general), EngineLimits(max_batch_tokens=wanted, max_batch=5))
        await asyncio.gather(*map(engine.ask, asked(9)))
        await engine.close()

    asyncio.run(ask())
    assert recall.sizes == sizes


def test_without_a_card_the_general_path_is_chosen(general, monkeypatch):
    from service.engine import graphs

    monkeypatch.setattr(graphs, "available", lambda kind: False)
    assert graphs.with_graphs(general) is general


def block_of(requests, **more):
    columns = columns_of(requests)
    return RequestBlock(columns, **more)


def test_blocks_are_answered_as_their_requests_are(general):
    requests = [*asked(3), EngineRequest(History((5, 6)), 7, (5, 6)), EngineRequest(History((7,)), 9, {7, 1})]
    compute = GraphCompute(Recall(general), general)
    [block] = compute.run_blocks([block_of(requests)])
    same(block.outcomes(), general.run(requests))
    assert block.lengths.tolist() == [20, 20, 20, 7, 9]
    assert compute.recall.sizes == [5]


def test_blocks_and_requests_share_a_batch(general):
    requests = asked(5)
    compute = GraphCompute(Recall(general, doubtful={(2, 2)}), general)
    work = [block_of(requests[:3]), requests[3], block_of(requests[4:])]
    first, second, third = compute.search(work, compute.encode(work))
    same([*first.outcomes(), second, *third.outcomes()], general.run(requests))
    assert compute.refused == {"in_doubt": 1}


def test_users_of_a_block_that_a_graph_refuses_take_the_general_path(general):
    requests = [*asked(2), *asked(1, 30), *asked(1, excluded={1, 2, 3, 4})]
    compute = GraphCompute(Recall(general), general)
    rules = ListRules(canonical({"color": 1}))
    work = [block_of(requests), block_of(asked(1), rules=rules)]
    expected = [*general.run(requests), *general.run(asked(1, rules=rules))]
    same([o for block in compute.search(work, compute.encode(work)) for o in block.outcomes()], expected)
    assert compute.refused == {"long_list": 1, "many_excluded": 1, "filtered": 1}


@pytest.mark.parametrize("graphs", [True, False])
@pytest.mark.parametrize("count", [4, 13])
def test_an_engine_answers_a_block_like_its_requests(general, graphs, count):
    compute = GraphCompute(Recall(general), general) if graphs else general
    requests = asked(count)

    async def ask():
        engine = Engine(compute, EngineLimits(max_batch=5))
        try:
            return await engine.ask_block(block_of(requests)), engine.num_waiting
        finally:
            await engine.close()

    block, left = asyncio.run(ask())
    same(block.outcomes(), general.run(requests))
    assert left == 0
    assert {"encode", "queue"} <= block.timings_ms.keys()


class Fragile(LastItem):
    def encode(self, histories):
        if any(13 in history.items for history in histories):
            raise RuntimeError("broken")
        return super().encode(histories)


def test_the_users_of_a_block_fail_with_their_own_batches(general):
    requests = [EngineRequest(History((item,)), 5) for item in (1, 13, 2, 3)]

    async def ask():
        engine = Engine(BatchCompute(Fragile(), general.index, general.plan), EngineLimits(max_batch=2))
        block = await engine.ask_block(block_of(requests))
        await engine.close()
        return block

    block = asyncio.run(ask())
    assert [isinstance(outcome, EngineFailed) for outcome in block.outcomes()] == [True, True, False, False]
    assert block.known.tolist() == [False] * 4


def test_a_block_whose_caller_has_gone_is_not_computed(general):
    async def ask():
        engine = Engine(general)
        waits = asyncio.create_task(engine.ask_block(block_of(asked(4))))
        await asyncio.sleep(0)
        waits.cancel()
        await asyncio.gather(waits, return_exceptions=True)
        await engine.ask(asked(1)[0])
        left = engine.num_waiting
        await engine.close()
        return left

    assert asyncio.run(ask()) == 0


def test_reasons_of_the_general_path_reach_who_asked_for_them(general):
    compute = GraphCompute(Recall(general), general)
    requests = [*asked(2), *asked(1, explain=True)]
    *plain, explained = compute.run(requests)
    assert [own.reasons for own in plain] == [None, None]
    np.testing.assert_array_equal(explained.reasons.ranks, general.run(requests)[2].reasons.ranks)
    [block] = compute.run_blocks([block_of(asked(2), explain=True)])
    assert all(own.reasons is not None for own in block.outcomes())
