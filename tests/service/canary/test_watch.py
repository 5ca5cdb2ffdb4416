"""The watch over a canary with real engines: one that fails, is slow, or lists something else has its trial ended."""

import asyncio
import time
from contextlib import asynccontextmanager

import numpy as np
import pytest

from index.exact import ExactIndex
from model.catalogue import Catalogue, IdMap
from model.records import QueryVectors, ServingPlan
from service.canary import watch as module
from service.canary.collector import CanaryCollector
from service.canary.watch import CanaryWatch
from service.engine.arms import ArmSlot, Release
from service.engine.compute import BatchCompute
from service.engine.engine import Engine
from service.engine.releases import Canary, CanaryTerms, ReleaseState
from service.errors import BadRequest, DeadlineExceeded, ReloadUnderWay
from service.experiments.assignment import Assigner
from service.pipeline import RecallPipeline
from service.queries import RecallQuery
from service.stores.history import MemoryHistory

N, D, LIMIT_S = 40, 4, 30
ITEMS = np.random.default_rng(3).normal(size=(N, D)).astype(np.float32)
CATALOGUE = Catalogue(IdMap.of(list(range(100, 100 + N))), IdMap.of([1, 2]), np.arange(N))
ARM, OWN, NEW = "only", "o" * 16, "n" * 16


class Encoder:
    """Gives the vector of one item for each history; slowly, or not at all."""

    def __init__(self, item=0, delay_s=0.0, error=None):
        self.item, self.delay_s, self.error = item, delay_s, error

    def encode(self, histories):
        time.sleep(self.delay_s)
        if self.error:
            raise self.error
        return QueryVectors(np.repeat(ITEMS[self.item][None, None], len(histories), 0), np.zeros((len(histories), 0)))


class Reloads:
    """The state of the arm, and the wishes that came; the first `num_busy` of them are refused."""

    def __init__(self, terms, num_busy=0):
        self.wishes, self.num_busy = [], num_busy
        self._state = ReleaseState(ARM, OWN, "own", canary=Canary(NEW, "new", terms))

    def states(self):
        return [self._state]

    async def reload(self, wanted):
        self.wishes.append(wanted)
        if len(self.wishes) <= self.num_busy:
            raise ReloadUnderWay("another one")


def release_of(bundle, encoder):
    engine = Engine(BatchCompute(encoder, ExactIndex(ITEMS), ServingPlan()))
    return Release(ARM, "comirec", bundle, CATALOGUE, ServingPlan(), "p" * 16, 10, engine)


@asynccontextmanager
async def watching(canary, terms, num_busy=0):
    """(pipeline, watch, wishes) of an arm with a canary."""
    slot = ArmSlot(release_of(OWN, Encoder()))
    slot.try_out(release_of(NEW, canary), terms.share)
    assigner = Assigner.from_features({"features": {"recall_arm": {"defaultValue": ARM}}}, [ARM])
    pipeline = RecallPipeline({ARM: slot}, assigner, MemoryHistory())
    releases = Reloads(terms, num_busy)
    watch = CanaryWatch(pipeline, releases)
    judging = asyncio.create_task(watch.run())
    try:
        yield pipeline, watch, releases.wishes
    finally:
        judging.cancel()
        await watch.close()
        await slot.close()


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(module, "LOOK_S", 0.02)
    monkeypatch.setattr(module, "COMPARE_EVERY_S", 0.0)


def run(main):
    return asyncio.run(asyncio.wait_for(main(), LIMIT_S))


async def ask(pipeline, watch, user):
    query = RecallQuery(f"request-{user}", user_id=user, history=[100 + user % N], top_n=5)
    result = await pipeline.recall(query)
    watch.answered(query, result)
    return result


HALF = CanaryTerms(0.5)


def wish_of(canary, terms=HALF, num_busy=0, num_users=300):
    """The wish for an end of the trial, and the bundles that answered; None where the canary stays."""

    async def main():
        async with watching(canary, terms, num_busy) as (pipeline, watch, wishes):
            bundles = set()
            for user in range(num_users):
                bundles.add((await ask(pipeline, watch, user)).bundle)
                if len(wishes) > num_busy:
                    break
            await asyncio.sleep(0.1)
            return (wishes[num_busy] if len(wishes) > num_busy else None), bundles

    return run(main)


def test_a_canary_that_fails_is_ended():
    wish, bundles = wish_of(Encoder(error=RuntimeError("broken")))
    assert (wish.arm, wish.rollback, bundles) == (ARM, True, {OWN, NEW})
    assert wish.reason.startswith(f"arm {ARM}: the canary {NEW} is out: ")
    assert "of its" in wish.reason


def test_a_canary_that_is_slow_is_ended():
    wish, _ = wish_of(Encoder(delay_s=0.02))
    assert "its answers take" in wish.reason


def test_a_canary_that_lists_something_else_is_ended():
    wish, _ = wish_of(Encoder(item=int(np.argmin(ITEMS @ ITEMS[0]))), CanaryTerms(0.5, max_slowdown=1000))
    assert "of their items in common" in wish.reason


def test_a_good_canary_stays():
    # on a shared machine a slow answer says nothing of the code
    assert wish_of(Encoder(), CanaryTerms(0.5, max_slowdown=1000), num_users=200) == (None, {OWN, NEW})


def test_an_end_that_is_refused_is_asked_for_again():
    wish, _ = wish_of(Encoder(error=RuntimeError("broken")), num_busy=2)
    assert wish.rollback


def test_errors_that_are_answered_count_for_the_bundle_of_their_user():
    async def main():
        async with watching(Encoder(), CanaryTerms(0.5)) as (_, watch, _wishes):
            for user in range(100):
                watch.failed(RecallQuery("id", user_id=user), ARM, DeadlineExceeded("late"))
                watch.failed(RecallQuery("id", user_id=user), ARM, BadRequest("theirs"))
            evidence = watch.evidence[ARM]
            return evidence.canary.num_failed, evidence.in_force.num_failed

    canary, in_force = run(main)
    assert canary + in_force == 100
    assert 30 < canary < 70


def test_without_a_canary_nothing_is_kept():
    async def main():
        async with watching(Encoder(), CanaryTerms(0.5)) as (pipeline, watch, _):
            pipeline.arms[ARM].end_trial()
            for user in range(20):
                await ask(pipeline, watch, user)
            return watch.evidence

    assert run(main) == {}


def test_both_sides_are_shown():
    async def main():
        async with watching(Encoder(), CanaryTerms(0.5, max_slowdown=1000)) as (pipeline, watch, _):
            for user in range(60):
                await ask(pipeline, watch, user)
            await asyncio.sleep(0.1)
            families = {family.name: family.samples for family in CanaryCollector(watch).collect()}
            counts = {tuple(s.labels.values())[1:]: s.value for s in families["recall_canary_answers"]}
            return counts, [sample.value for sample in families["recall_canary_overlap"]]

    counts, overlap = run(main)
    assert counts["canary", "good"] + counts["in_force", "good"] == 60
    assert (counts["canary", "failed"], overlap) == (0, [1.0])
