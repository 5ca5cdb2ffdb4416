"""Interleaving in the spine: two arms of which one fails, refuses, or writes ids otherwise."""

import asyncio
from contextlib import asynccontextmanager

import numpy as np
import orjson
import pytest

from index.exact import ExactIndex
from model.catalogue import Catalogue, IdMap
from model.records import QueryVectors, ServingPlan
from service.engine.arms import ArmSlot, Release
from service.engine.compute import BatchCompute
from service.engine.engine import Engine
from service.errors import Overloaded
from service.events.outbox import MemoryOutbox
from service.events.streams import EXPOSURES, INTERLEAVED
from service.experiments.assignment import Assigner
from service.experiments.exposure import Exposure, Interleaved
from service.experiments.recorder import ExposureRecorder
from service.experiments.team_draft import draft, seed_of
from service.pipeline import RecallPipeline
from service.queries import RecallQuery
from service.steps.interleaving import join_explained
from service.stores.history import MemoryHistory

N, D, LIMIT_S = 40, 4, 20
ITEMS = np.random.default_rng(3).normal(size=(N, D)).astype(np.float32)
INTEGERS, TEXTS = list(range(100, 100 + N)), [str(number) for number in range(100, 100 + N)]
RULE = {"key": "exp", "kind": "interleaving", "phase": "1", "hashAttribute": "user_id", "hashVersion": 2}
FEATURES = {"features": {"recall_arm": {"defaultValue": "one", "rules": [RULE | {"variations": ["one", "two"]}]}}}


class Encoder:
    """One vector for every history, or an error."""

    def __init__(self, row, error=None):
        self._row, self._error = row, error

    def encode(self, histories):
        if self._error:
            raise self._error
        vectors = np.repeat(ITEMS[self._row : self._row + 1][None], len(histories), 0)
        return QueryVectors(vectors, np.zeros((len(histories), 0), np.int64))


class Full:
    """An engine whose queue is full."""

    async def ask(self, request):
        raise Overloaded("full")


@asynccontextmanager
async def open_pipeline(error=None, ids=INTEGERS, engine=None, histories=None):
    """Two arms, the second with that error, these ids, or that engine."""
    catalogues = [Catalogue(IdMap.of(own), IdMap.of([1]), np.arange(N)) for own in (INTEGERS, ids)]
    encoders = [Encoder(0), Encoder(1, error)]
    engines = [Engine(BatchCompute(encoder, ExactIndex(ITEMS), ServingPlan())) for encoder in encoders]
    arms = {}
    for name, catalogue, own in zip(("one", "two"), catalogues, (engines[0], engine or engines[1]), strict=True):
        arms[name] = ArmSlot(Release(name, "comirec", f"bundle-{name}", catalogue, ServingPlan(), "p" * 16, 10, own))
    try:
        yield RecallPipeline(arms, Assigner.from_features(FEATURES, arms), histories or MemoryHistory())
    finally:
        for own in engines:
            await own.close()


def recall(query, **parts):
    async def main():
        async with open_pipeline(**parts) as pipeline:
            return await pipeline.recall(query)

    return asyncio.run(asyncio.wait_for(main(), LIMIT_S))


def query(**more):
    return RecallQuery(**{"request_id": "r", "user_id": "u", "history": [100], "top_n": 6} | more)


def test_result_is_the_draft_of_its_parts():
    result = recall(query())
    lists = tuple(part.item_ids.tolist() for part in result.parts)
    teams, places = draft(lists, 6, seed_of("exp", "1", "u", "r"))
    assert result.item_ids.tolist() == [lists[team][place] for team, place in zip(teams, places, strict=True)]
    assert result.provenance == (("0", "1"), teams, len({*lists[0]} & {*lists[1]}))
    assert result.scores.tolist() == [result.parts[t].scores[p] for t, p in zip(teams, places, strict=True)]
    assert (result.served, result.bundle, result.degraded) == ("interleaved", "bundle-one+bundle-two", [])


def test_failed_arm_has_the_fallback_as_its_list():
    """Its users have that in a split too: what an arm shows when it fails is part of the arm."""
    result = recall(query(), error=RuntimeError("broken"))
    assert (result.served, [part.served for part in result.parts]) == ("fallback", ["one", "fallback"])
    assert result.degraded == ["fallback", "filled"]
    assert sum(result.provenance.picks) == 3


def test_arm_that_refuses_refuses_the_request():
    with pytest.raises(Overloaded):
        recall(query(), engine=Full())


def test_one_id_in_two_forms_is_shown_once():
    result = recall(query(top_n=N), ids=TEXTS)
    shown = result.item_ids.tolist()
    assert len({str(item) for item in shown}) == len(shown) == N - 1
    assert {type(item) for item in shown} == {int, str}


def test_hidden_items_are_in_no_part():
    histories = MemoryHistory()
    asyncio.run(histories.hide("u", 117))
    whole = recall(query(top_n=N), histories=histories)
    assert 117 not in whole.item_ids.tolist()
    assert len(whole.item_ids) == N - 2


def test_kept_history_is_read_for_both_arms():
    histories = MemoryHistory()
    asyncio.run(histories.take("u", 117, 1))
    assert 117 not in recall(query(history=None, top_n=N), histories=histories).item_ids.tolist()


def test_batch_keeps_the_order_of_interleaved_and_other_queries():
    async def main():
        async with open_pipeline() as pipeline:
            queries = [query(request_id=str(n), user_id=str(n) if n % 2 else None, top_n=n + 1) for n in range(6)]
            return [(len(result.item_ids), result.served) for result in await pipeline.recall_many(queries)]

    served = asyncio.run(asyncio.wait_for(main(), LIMIT_S))
    assert served == [(n + 1, "interleaved" if n % 2 else "one") for n in range(6)]


def test_every_list_is_recorded_and_its_user_exposed_once():
    outbox = MemoryOutbox(1_000_000)
    recorder = ExposureRecorder(outbox, 0)
    for number in range(3):
        result = recall(query(request_id=f"r{number}"))
        recorder.record(query(request_id=f"r{number}"), result.assignment, result.served, result)

    def kept(stream, decode):
        return [entry.event for entry in asyncio.run(outbox.reader(stream, decode).read()).events]

    lists = kept(INTERLEAVED, Interleaved.from_json)
    assert [event.request_id for event in lists] == ["r0", "r1", "r2"]
    assert (lists[2].teams, lists[2].picks) == (("0", "1"), result.provenance.picks)
    assert lists[2].items == tuple(result.item_ids.tolist())
    [exposure] = kept(EXPOSURES, Exposure.from_json)
    assert (exposure.variation, exposure.assigned, exposure.served) == ("interleaved",) * 3


def test_mixed_ids_can_be_recorded():
    outbox, result = MemoryOutbox(1_000_000), recall(query(), ids=TEXTS)
    ExposureRecorder(outbox, 1).record(query(), result.assignment, result.served, result)
    [entry] = asyncio.run(outbox.reader(INTERLEAVED, orjson.loads).read()).events
    assert entry.event["items"] == result.item_ids.tolist()


def test_of_two_arms_each_prompt_that_is_soft_has_its_nearest_items():
    async def main():
        async with open_pipeline() as pipeline:
            return await pipeline.recall(RecallQuery("r", 1, history=[], top_n=4, explain=True))

    result = asyncio.run(main())
    lists = {"sources": ["step1"] * 4, "reasons": {"ranks": [[1]] * 4}}
    soft = {**lists, "prompts": [3, 9], "nearest": {"items": [[3, 4], [9, 5]], "weights": [[0.5, 0.1], [0.4, 0.2]]}}
    plain = {**lists, "prompts": [7]}
    joined = join_explained(result, [plain, soft])
    assert joined["prompts"] == [7, 3, 9]
    assert joined["nearest"] == {"items": [[], [3, 4], [9, 5]], "weights": [[], [0.5, 0.1], [0.4, 0.2]]}
    assert "nearest" not in join_explained(result, [plain, plain])
