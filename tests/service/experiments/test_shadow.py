"""The shadow comparison: sampled, after the answer, and without consequences when an arm cannot answer."""

import asyncio
from dataclasses import dataclass, replace

import numpy as np
import pytest

from index.watched import Mean
from model.catalogue import IdMap
from service.errors import Overloaded
from service.experiments.assignment import Assignment, Reason
from service.experiments.shadow import ShadowArm, ShadowComparison, share_in_common
from tests.waiting import until

LISTS = {"first": [1, 2], "second": [2, 3], "third": [1, 3]}


@dataclass(frozen=True)
class Query:
    pinned: str | None = None

    def pinned_to(self, arm):
        return replace(self, pinned=arm)


@dataclass(frozen=True)
class Result:
    assignment: Assignment
    item_ids: np.ndarray
    served: str = ""


def listed(arm, served=None):
    return Result(Assignment(arm, Reason.PINNED, ""), np.array(LISTS[arm]), served or arm)


class Pipeline:
    """Arms with fixed lists; the queries they got."""

    def __init__(self, *arms, error=None, gate=None):
        self.arms, self.error, self.gate, self.queries = dict.fromkeys(arms), error, gate, []

    async def recall(self, query):
        self.queries.append(query.pinned)
        if self.gate:
            await self.gate.wait()
        if self.error:
            raise self.error
        return listed(query.pinned)


async def finished(shadow):
    """Returns when the tasks that a comparison has started, the only others of this loop, have ended by themselves."""
    await until(lambda: asyncio.all_tasks() == {asyncio.current_task()})
    await shadow.close()


def compare(pipeline, num_answers=1, sample_every=1):
    """The measured overlap after `num_answers` answers of the first arm."""

    async def main():
        overlap = Mean()
        shadow = ShadowComparison(pipeline, overlap, sample_every)
        for _ in range(num_answers):
            shadow.sample(Query(), listed("first"))
        assert pipeline.queries == []  # nothing is asked before the caller goes on
        await finished(shadow)
        return overlap

    return asyncio.run(main())


def test_other_arms_get_the_query_and_the_lists_are_compared():
    pipeline = Pipeline("first", "second", "third")
    assert compare(pipeline).value == pytest.approx(0.5)
    assert pipeline.queries == ["second", "third"]


def test_one_query_in_many_is_compared():
    pipeline = Pipeline("first", "second")
    assert compare(pipeline, num_answers=25, sample_every=10).count == 2
    assert pipeline.queries == ["second"] * 2


def test_a_single_arm_is_compared_with_nothing():
    pipeline = Pipeline("first")
    assert compare(pipeline).count == 0
    assert pipeline.queries == []


def test_an_arm_that_cannot_answer_measures_nothing():
    pipeline = Pipeline("first", "second", error=Overloaded("full"))
    assert (compare(pipeline).count, pipeline.queries) == (0, ["second"])


def test_close_ends_what_is_under_way():
    async def main():
        pipeline = Pipeline("first", "second", gate=asyncio.Event())
        shadow = ShadowComparison(pipeline, Mean(), 1)
        shadow.sample(Query(), listed("first"))
        await asyncio.sleep(0)
        async with asyncio.timeout(1):
            await shadow.close()
        return pipeline.queries, asyncio.all_tasks() - {asyncio.current_task()}

    assert asyncio.run(main()) == (["second"], set())


@pytest.mark.parametrize(
    ("lists", "share"),
    [([[1, 2], [2, 1]], 1.0), ([[1, 2], [3, 4]], 0.0), ([[1, 2], [2, 3], [1, 3]], 0.5), ([[1]], 1.0), ([[], []], 0.0)],
)
def test_share_in_common_is_the_mean_over_all_pairs(lists, share):
    assert share_in_common([np.array(items, dtype=np.int64) for items in lists]) == pytest.approx(share)


def test_arms_whose_ids_are_of_two_kinds_have_nothing_in_common():
    numbers, texts = IdMap.of([7, 8]), IdMap.of(["7", "clip"])
    assert share_in_common([ids.column(np.array([1, 2])) for ids in (numbers, texts)]) == 0


def shadowed(pipeline, first="first", share=1.0, num_answers=1):
    """The pairs of lists that a shadow arm, the second, has recorded after so many answers of another."""
    pairs = []

    async def main():
        arm = ShadowArm("second", share, lambda _, results: pairs.append(results))
        shadow = ShadowComparison(pipeline, Mean(), 10**9, arm)
        for _ in range(num_answers):
            shadow.sample(Query(), listed(first))
        await finished(shadow)

    asyncio.run(main())
    return [(own.item_ids.tolist(), other.item_ids.tolist()) for own, other in pairs]


def test_a_shadow_arm_is_asked_alone_and_its_list_recorded_beside_the_one_shown():
    pipeline = Pipeline(*LISTS)
    assert (shadowed(pipeline), pipeline.queries) == ([([1, 2], [2, 3])], ["second"])


def test_a_shadow_arm_that_answered_itself_has_no_shadow():
    pipeline = Pipeline(*LISTS)
    assert (shadowed(pipeline, first="second"), pipeline.queries) == ([], [])


def test_a_shadow_arm_that_cannot_answer_records_nothing():
    pipeline = Pipeline(*LISTS, error=Overloaded("full"))
    assert (shadowed(pipeline), pipeline.queries) == ([], ["second"])


def test_a_list_that_only_filled_in_is_not_recorded():
    class Broken(Pipeline):
        async def recall(self, query):
            await super().recall(query)
            return listed(query.pinned, "fallback")

    pipeline = Broken(*LISTS)
    assert (shadowed(pipeline), pipeline.queries) == ([], ["second"])


def test_a_shadow_arm_computes_its_share():
    pipeline = Pipeline(*LISTS)
    recorded = shadowed(pipeline, share=0.25, num_answers=200)
    assert 20 < len(recorded) < 85
    assert len(pipeline.queries) == len(recorded)
