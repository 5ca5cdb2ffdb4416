"""The decision at start: graphs only where their lists are the general path's; else a reason."""

import numpy as np
import pytest
from triton.errors import TritonError

from model.columns import Columns
from model.device import proof
from model.device.chain import Chain
from model.device.generator import Generator
from model.device.layout import Answers
from model.device.prepare import prepare
from model.kernels.search import Table
from model.records import History, Placement, PromptForm, PromptPlan, ServingPlan

LIMIT = 10


def answers(count, seed=0):
    draws = np.random.default_rng(seed)
    rows, scores = draws.integers(1, 90, (count, LIMIT)), draws.random((count, LIMIT), dtype=np.float32)
    prompts, doubtful = np.zeros((count, 1), dtype=np.int64), np.zeros(count, dtype=np.int32)
    return Answers(rows, prompts, scores, np.zeros((count, 1, 4), dtype=np.float32), rows.astype(np.int32), doubtful)


def changed(**columns):
    return answers(200)._replace(**columns)


def test_the_same_lists_are_the_same():
    assert proof.difference(answers(200), answers(200)) == ""
    assert proof.share_of_same(answers(200), answers(200)) == 1


def test_a_swap_of_near_ties_is_rounding():
    rows = answers(200).rows.copy()
    rows[3, :2] = rows[3, 1::-1]
    assert proof.difference(changed(rows=rows), answers(200)) == ""
    assert proof.share_of_same(changed(rows=rows), answers(200)) == 0.995


def test_many_other_lists_are_told():
    assert proof.difference(answers(200, 1), answers(200)).startswith("200 of 200 probes have other lists")


def test_other_scores_are_told_unless_another_item_was_generated():
    scores, prompts = answers(200).scores.copy(), np.zeros((200, 1), dtype=np.int64)
    scores[5] += 0.1
    assert (
        proof.difference(changed(scores=scores), answers(200))
        == "scores of 1 of 200 probes differ by more than rounding"
    )
    prompts[5] = 3
    assert proof.difference(changed(scores=scores, prompts=prompts), answers(200)) == ""


def test_lists_in_doubt_are_the_general_path_s_own():
    doubtful, rows = np.zeros(200, dtype=np.int32), answers(200).rows.copy()
    doubtful[:50], rows[:50] = 1, 0
    assert proof.difference(changed(rows=rows, doubtful=doubtful), answers(200)) == ""


def test_probes_have_every_length_and_both_kinds_of_exclusion(make_network):
    columns = proof.probes(make_network(), 64)
    assert set(columns.lengths.tolist()) == set(range(13))
    assert any(columns.own)
    assert any(columns.other_lengths)


@pytest.fixture
def table(make_network, device):
    return Table.halved(make_network(num_items=150).to(device).item_vectors().detach())


def test_other_lists_than_the_general_path_s_are_not_served(make_network, table):
    wrong = Answers(*(part[:, :0] for part in answers(2)[:1]), *answers(2)[1:])
    wide = np.zeros((2, 100))
    wrong = Answers(wide.astype(np.int64), wrong.prompts[:, :0], wide.astype(np.float32), np.zeros((2, 1, 8)),
                    wide.astype(np.int32), wrong.doubtful)  # fmt: skip
    prepared = prepare(make_network(num_items=150), ServingPlan(), table, lambda columns: wrong, (2,))
    assert prepared.recall is None
    assert prepared.reason == "2 of 2 probes have other lists than the general path's"


def test_diversity_is_left_to_the_host(make_network, table):
    prepared = prepare(make_network(), ServingPlan(diversity=0.1), table, lambda columns: answers(2), (2,))
    assert prepared.recall is None
    assert "diversity" in prepared.reason


def test_a_plan_that_a_system_cannot_answer_is_a_reason(make_network, table):
    plan = ServingPlan(PromptPlan(num_steps=2))
    prepared = prepare(make_network("comirec", num_items=150), plan, table, lambda columns: answers(2), (2,))
    assert prepared.recall is None
    assert prepared.reason.startswith("ValueError: ComiRec generates no prompts")


def test_refused_requests_name_their_reason(make_network, device, table):
    network, plan = make_network(num_items=150).to(device), ServingPlan()
    from model.device.chain import Chain
    from model.device.lane import Lane
    from model.device.recall import DeviceRecall

    recall = DeviceRecall({1: [Lane(Chain.of(network, plan, table, 1), 1)]})
    assert recall.takes_all(20, 30)
    assert [recall.refuses(*case) for case in ((20, 30), (101, 0), (20, 129), (100, 51))] == [
        "",
        "long_list",
        "many_excluded",
        "few_items",
    ]
    assert not recall.takes_all(101, 0)
    assert not recall.takes_all(100, 51)
    with pytest.raises(ValueError, match="an item row"):
        recall.start(Columns.of([History((999,))], [5], [()]))
    # the lane was given back
    ticket = recall.start(Columns.of([History((9,))], [5], [()]))
    assert np.count_nonzero(recall.finish(ticket).rows) == 5


@pytest.mark.parametrize(
    ("num_segments", "plan", "taken"),
    [
        (2, PromptPlan(2, Placement.TAIL, 3), True),
        (3, PromptPlan(0, Placement.NONE, 2), True),
        (3, PromptPlan(0, Placement.NONE, 3), False),  # the second item has a segment of its own
        (2, PromptPlan(0, Placement.NONE, 2, PromptForm.SOFT), False),
        (2, PromptPlan(0, Placement.NONE, 2, step_weights=(1.0, 0.5)), False),
        (2, PromptPlan(1, Placement.ALL), False),
    ],
)
def test_the_kernels_take_the_plans_that_they_compute(make_network, num_segments, plan, taken):
    assert Generator.supports(make_network("recgpt", num_segments=num_segments), plan) is taken


@pytest.mark.parametrize("error", [TritonError("no such operation"), RuntimeError("out of memory")])
def test_what_a_compiler_or_a_card_refuses_is_a_reason(make_network, monkeypatch, error):
    def refuse(*_):
        raise error

    monkeypatch.setattr(Chain, "of", refuse)
    network = make_network("recgpt", dim=16)
    table = Table.halved(network.item_vectors().detach())
    prepared = prepare(network, ServingPlan(), table, lambda _: answers(8), (8,))
    assert prepared.recall is None
    assert prepared.reason == f"{type(error).__name__}: {error}"
