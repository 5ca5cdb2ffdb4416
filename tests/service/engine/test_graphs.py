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
from service.engine.collector import EngineCollector
from service.engine.compute import BatchCompute, ComputeCounters
from service.engine.engine import Engine
from service.engine.finding import ServedItems
from service.engine.graphs import GraphCompute, answers_of, columns_of
from service.engine.messages import EngineLimits, EngineRequest

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

    def refuses(self, limit, excluded):
        return "long_list" if limit > self.width else "many_excluded" if len(excluded) > 3 else ""

    def start(self, columns):
        self.sizes.append(len(columns.histories))
        self.asked[len(self.sizes)] = columns
        return Ticket(len(self.sizes), len(columns.histories))

    def finish(self, ticket):
        columns = self.asked.pop(ticket.lane)
        requests = [EngineRequest(*user) for user in zip(*columns, strict=True)]
        answers = answers_of(self.general.run(requests), self.width)
        doubt = np.array([history.items in self.doubtful for history in columns.histories], dtype=np.int32)
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
    assert columns.excluded[0] is columns.histories[0].items


class Kept:
    """A cache that only takes."""

    def __init__(self):
        self.kept = {}

    def get_local(self, key):
        return self.kept.get(key)

    def put_many(self, pairs):
        self.kept |= dict(pairs)

    @property
    def lookup_mode(self):
        from service.stores.vector_cache import LookupMode

        return LookupMode.OVERLAPPED


def test_an_engine_answers_from_graphs_and_keeps_their_vectors(general):
    cache, requests = (
        Kept(),
        [EngineRequest(request.history, 20, key=b"%d" % number) for number, request in enumerate(asked(9))],
    )

    async def ask():
        engine = Engine(GraphCompute(Recall(general), general), cache=cache)
        results = await asyncio.gather(*map(engine.ask, requests))
        again = await engine.ask(requests[0])
        await engine.close()
        return results, again

    results, again = asyncio.run(ask())
    same(results, general.run(requests))
    assert sorted(cache.kept) == sorted(request.key for request in requests)
    assert again.known


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
    from service.engine import capture

    monkeypatch.setattr(capture, "available", lambda kind: False)
    assert capture.with_graphs(general) is general
