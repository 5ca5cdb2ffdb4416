"""The spine with a broken or slow engine: a labelled fallback, and deadlines that are each caller's own."""

import asyncio
import threading
import time
from contextlib import asynccontextmanager

import numpy as np
import pytest

from index.exact import ExactIndex
from model.catalogue import Catalogue, IdMap
from model.records import QueryVectors, ServingPlan
from service.engine.arms import ArmSlot, Release
from service.engine.compute import BatchCompute
from service.engine.engine import Engine
from service.errors import UnknownArm
from service.experiments.assignment import Assigner
from service.pipeline import RecallPipeline
from service.queries import RecallQuery
from service.stores.history import MemoryHistory
from service.stores.vector_cache import MemoryVectorCache

N, D = 40, 4
HANG_S = 20
ITEMS = np.random.default_rng(3).normal(size=(N, D)).astype(np.float32)
CATALOGUE = Catalogue(IdMap.of(list(range(100, 100 + N))), IdMap.of([1, 2]), np.arange(N))
EVERYBODY = {"features": {"recall_arm": {"defaultValue": "only"}}}


class Gated:
    """Waits for its gate, then gives one vector a history, or fails."""

    def __init__(self, error=None):
        self.error, self.gate, self.taken, self.num_calls = error, threading.Event(), threading.Event(), 0

    def encode(self, histories):
        self.num_calls += 1
        self.taken.set()
        assert self.gate.wait(HANG_S)
        if self.error:
            raise self.error
        return QueryVectors(np.repeat(ITEMS[:1][None], len(histories), 0), np.zeros((len(histories), 0), np.int64))


@asynccontextmanager
async def open_pipeline(encoder, with_cache=True, histories=None):
    cache = MemoryVectorCache() if with_cache else None
    engine = Engine(BatchCompute(encoder, ExactIndex(ITEMS), ServingPlan()), cache=cache)
    release = Release("only", "comirec", "b" * 16, CATALOGUE, ServingPlan(), "p" * 16, 10, engine, with_cache)
    try:
        assigner = Assigner.from_features(EVERYBODY, ["only"])
        yield RecallPipeline({"only": ArmSlot(release)}, assigner, histories or MemoryHistory())
    finally:
        encoder.gate.set()
        await engine.close()


def run(main):
    return asyncio.run(asyncio.wait_for(main(), HANG_S))


def failed_answer(with_cache, **asked):
    async def main():
        encoder = Gated(RuntimeError("broken"))
        encoder.gate.set()
        async with open_pipeline(encoder, with_cache) as pipeline:
            return await pipeline.recall(RecallQuery("id", **asked))

    return run(main)


@pytest.mark.parametrize("with_cache", [True, False])
def test_failed_engine_is_answered_by_the_popular_items_and_says_so(with_cache):
    answer = failed_answer(with_cache, history=[139, 138], exclude=[137], top_n=3)
    assert answer.listed.rows.tolist() == [37, 36, 35]
    assert (answer.served, answer.assignment.arm) == ("fallback", "only")
    assert answer.degraded == ["fallback", "filled"]
    assert [answer.arm.source_name(source) for source in answer.listed.sources.tolist()] == ["popular"] * 3


def test_fallback_is_not_kept_in_the_cache():
    async def main():
        encoder = Gated(RuntimeError("broken"))
        encoder.gate.set()
        async with open_pipeline(encoder) as pipeline:
            await pipeline.recall(RecallQuery("1", history=[100]))
            encoder.error = None
            return await pipeline.recall(RecallQuery("2", history=[100]))

    answer = run(main)
    assert (answer.served, answer.cache, answer.degraded) == ("only", "miss", [])


def test_same_history_at_once_is_computed_once():
    async def main():
        encoder = Gated()
        async with open_pipeline(encoder) as pipeline:
            asks = [asyncio.create_task(pipeline.recall(RecallQuery(str(n), history=[100]))) for n in range(50)]
            await asyncio.sleep(0.01)
            encoder.gate.set()
            answers = await asyncio.gather(*asks)
            return encoder.num_calls, {tuple(answer.listed.rows) for answer in answers}

    num_calls, lists = run(main)
    assert (num_calls, len(lists)) == (1, 1)


async def outcomes_behind_another(*waits_s):
    """The outcomes of requests for one history, each with its own time, while the engine is busy for .2 s."""
    encoder = Gated()
    async with open_pipeline(encoder) as pipeline:
        busy = asyncio.create_task(pipeline.recall(RecallQuery("busy", history=[101])))
        await asyncio.to_thread(encoder.taken.wait, HANG_S)
        now = time.monotonic()
        asks = [RecallQuery(str(n), history=[100], deadline=now + wait_s) for n, wait_s in enumerate(waits_s)]
        asyncio.get_running_loop().call_later(0.2, encoder.gate.set)
        outcomes = await asyncio.gather(*map(pipeline.recall, asks), return_exceptions=True)
        await busy
    return [getattr(outcome, "served", type(outcome).__name__) for outcome in outcomes]


@pytest.mark.parametrize(
    ("waits_s", "outcomes"),
    [
        ([0.0, HANG_S], ["DeadlineExceeded", "only"]),
        ([0.0, HANG_S, 0.0, HANG_S], ["DeadlineExceeded", "only", "DeadlineExceeded", "only"]),
        ([HANG_S, HANG_S], ["only", "only"]),
        ([0.0, 0.0, 0.0], ["DeadlineExceeded"] * 3),
    ],
)
def test_each_caller_of_one_computation_has_a_deadline_of_its_own(waits_s, outcomes):
    assert run(lambda: outcomes_behind_another(*waits_s)) == outcomes


def test_where_there_is_still_time_for_the_fallback_it_is_given(monkeypatch):
    monkeypatch.setattr("service.fallback.NEAR_S", HANG_S)

    async def main():
        async with open_pipeline(Gated()) as pipeline:
            # a fifth of the time is left for it
            return await pipeline.recall(RecallQuery("id", history=[100], top_n=3, deadline=time.monotonic() + 1))

    answer = run(main)
    assert (answer.served, answer.degraded) == ("fallback", ["deadline", "fallback", "filled"])


class Silent:
    """Histories that are never told."""

    async def recent(self, user, limit=None):
        await asyncio.sleep(HANG_S)

    def may_have_hidden(self, user):
        return True

    async def hidden(self, users):
        await asyncio.sleep(HANG_S)


def test_a_history_is_not_waited_for_longer_than_the_deadline_allows(monkeypatch):
    monkeypatch.setattr("service.fallback.NEAR_S", HANG_S)
    monkeypatch.setattr("service.fallback.SHARE", 0.98)

    async def main():
        encoder = Gated()
        encoder.gate.set()
        async with open_pipeline(encoder) as pipeline:
            slow = RecallPipeline(pipeline.arms, Assigner.from_features(EVERYBODY, ["only"]), Silent())
            return await slow.recall(RecallQuery("id", user_id=1, top_n=3, deadline=time.monotonic() + 10))

    assert run(main).degraded[:3] == ["history_unavailable", "deadline", "hidden_unavailable"]


def test_unknown_arm_names_those_there_are():
    async def main():
        async with open_pipeline(Gated()) as pipeline:
            with pytest.raises(UnknownArm, match="there are only"):
                await pipeline.recall(RecallQuery("id", pinned="other"))

    run(main)


MANY = [
    RecallQuery("1", history=[100, 101], top_n=3, explain=True),
    RecallQuery("2", user_id=7, top_n=4),
    RecallQuery("3", history=[999, 100], exclude=[139], top_n=50),
    RecallQuery("4", history=[], top_n=2),
    RecallQuery("5", history=list(range(100, 120)), top_n=5),
]


@pytest.mark.parametrize("with_cache", [True, False])
def test_many_queries_are_answered_as_each_of_them_is(with_cache):
    async def main():
        encoder = Gated()
        encoder.gate.set()
        async with open_pipeline(encoder, with_cache) as pipeline:
            together = await pipeline.recall_many(MANY)
        async with open_pipeline(encoder, with_cache) as pipeline:
            return together, await asyncio.gather(*map(pipeline.recall, MANY))

    for many, single in zip(*run(main), strict=True):
        assert many.listed.rows.tolist() == single.listed.rows.tolist()
        assert many.listed.sources.tolist() == single.listed.sources.tolist()
        for name in ("request_id", "served", "prompts", "cache", "degraded", "assignment"):
            assert getattr(many, name) == getattr(single, name)
        assert many.timings_ms.keys() == single.timings_ms.keys()


def test_many_queries_to_a_failed_engine_get_the_fallback_each():
    async def main():
        encoder = Gated(RuntimeError("broken"))
        encoder.gate.set()
        async with open_pipeline(encoder) as pipeline:
            return await pipeline.recall_many(MANY[:2]), await pipeline.recall_many([])

    (first, second), none = run(main)
    assert [answer.served for answer in (first, second)] == ["fallback"] * 2
    assert (len(first.listed.rows), len(second.listed.rows), none) == (3, 4, [])


def test_many_queries_that_come_too_late_get_their_error_each():
    async def main():
        async with open_pipeline(Gated()) as pipeline:
            late = [RecallQuery(str(n), history=[100], deadline=time.monotonic() - 0.02) for n in range(3)]
            return await pipeline.recall_many(late)

    assert [type(outcome).__name__ for outcome in run(main)] == ["DeadlineExceeded"] * 3


def test_many_queries_whose_deadline_nears_get_the_fallback_each(monkeypatch):
    monkeypatch.setattr("service.fallback.NEAR_S", HANG_S)
    monkeypatch.setattr("service.fallback.SHARE", 0.995)

    async def main():
        async with open_pipeline(Gated()) as pipeline:
            queries = [RecallQuery(str(n), history=[100], top_n=3, deadline=time.monotonic() + 10) for n in range(3)]
            return await pipeline.recall_many(queries)

    assert [outcome.degraded for outcome in run(main)] == [["deadline", "fallback", "filled"]] * 3


class Hides(MemoryHistory):
    """Every user has hidden the same items; says which once it may, and that there are some at once or only then."""

    def __init__(self, *items, is_told=True):
        super().__init__()
        self.items, self.gate, self.is_told = list(items), asyncio.Event(), is_told

    def may_have_hidden(self, user):
        return self.is_told or self.gate.is_set()

    async def hidden(self, users):
        await self.gate.wait()
        return [self.items for _ in users]


async def answer_with_hidden(*items, error=None, is_told=True):
    """The list of a user who has hidden items, how often it was computed, and if it was before they were known."""
    encoder, hides = Gated(error), Hides(*items, is_told=is_told)
    async with open_pipeline(encoder, histories=hides) as pipeline:
        asking = asyncio.create_task(pipeline.recall(RecallQuery("id", user_id=1, history=[100], top_n=5)))
        if is_told:
            encoder.gate.set()
        computed_first = await asyncio.to_thread(encoder.taken.wait, HANG_S)
        hides.gate.set()
        encoder.gate.set()
        answer = await asking
        return answer.item_ids.tolist(), encoder.num_calls, computed_first


def test_what_is_hidden_is_read_while_the_engine_computes():
    listed, num_calls, computed_first = run(answer_with_hidden)
    assert (len(listed), num_calls, computed_first) == (5, 1, True)


def test_a_list_that_holds_a_hidden_item_is_asked_anew_and_full():
    whole = run(answer_with_hidden)[0]
    listed, _, _ = run(lambda: answer_with_hidden(whole[1], whole[3]))
    more = run(lambda: longer_list(7))
    assert listed == [item for item in more if item not in (whole[1], whole[3])]


async def longer_list(top_n):
    encoder = Gated()
    encoder.gate.set()
    async with open_pipeline(encoder) as pipeline:
        return (await pipeline.recall(RecallQuery("id", history=[100], top_n=top_n))).item_ids.tolist()


def test_an_item_hidden_while_the_list_is_computed_is_left_out():
    whole = run(answer_with_hidden)[0]
    listed, _, computed_first = run(lambda: answer_with_hidden(whole[0], is_told=False))
    assert (whole[0] in listed, len(listed), computed_first) == (False, 5, True)


def test_a_list_without_hidden_items_stands():
    whole = run(answer_with_hidden)[0]
    other = next(item for item in range(101, 140) if item not in whole)
    assert run(lambda: answer_with_hidden(other))[:2] == (whole, 1)


def test_the_fallback_leaves_hidden_items_out():
    assert run(lambda: answer_with_hidden(139, 137, error=RuntimeError("broken")))[0] == [138, 136, 135, 134, 133]
