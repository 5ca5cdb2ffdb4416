"""The whole chain, histories to lists, against network, all scores and merge on the CPU: every plan, small sizes."""

import numpy as np
import pytest
import torch

from model.batch import Batch
from model.columns import Columns
from model.device.chain import Chain
from model.device.lane import Lane
from model.kernels.search import Table
from model.merging import merge
from model.records import History, Placement, PromptPlan, ServingPlan

TWO = ServingPlan(PromptPlan(0, Placement.NONE, 2), (7, 3))
DECODER = {"dim": 16, "num_layers": 2, "num_heads": 2}
SMOOTH = {"recency": 0.7, "past_weight": 0.8}
PARTS = [{"system": "recgpt", "network": DECODER}, {"system": "fism", "network": {"dim": 16}}]
CASES = {
    "one step": ("recgpt", DECODER, ServingPlan()),
    "two steps": ("recgpt", DECODER, TWO),
    "tail": ("recgpt", DECODER, ServingPlan(PromptPlan(2, Placement.TAIL, 3), (5, 3, 2))),
    "pooled": ("recgpt", DECODER, ServingPlan(PromptPlan(1, Placement.TAIL, 2))),
    "all": ("recgpt", DECODER, ServingPlan(PromptPlan(1, Placement.ALL, 2), (7, 3))),
    "a past": ("recgpt", DECODER | SMOOTH, TWO),
    "a past, tail": ("recgpt", DECODER | SMOOTH, ServingPlan(PromptPlan(2, Placement.TAIL, 3), (5, 3, 2))),
    "blend": ("blend", {"parts": PARTS}, TWO),
    "interests": ("comirec", {"dim": 16}, ServingPlan()),
}
HISTORIES = [History(()), History((3, 1, 4, 1, 5, 9), 2), History((200,), 5)]


def slowly(network, items, plan, history, excluded, limit):
    """(vectors, prompts, merged lists) of one user, by the definition."""
    with torch.no_grad():
        batch = Batch.of([history.items], [history.user], network.config.max_length)
        queries = network.queries(batch, plan.prompts)
    scores = queries.vectors[0].double() @ items.double().T
    scores[:, [row - 1 for row in excluded]] = -torch.inf
    top = scores.topk(limit)
    lists = merge(top.indices.numpy()[None] + 1, top.values.float().numpy()[None], limit, plan)
    return queries.vectors[0].numpy(), queries.prompts[0].numpy(), lists


# rows that no token stands in are computed like others, and never read
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_lists_are_those_of_the_definition(make_network, device, case):
    kind, settings, plan = case
    network = make_network(kind, num_items=200, max_length=6, **settings)
    items, limits = network.item_vectors().detach().clone(), [20, 7, 20]
    excluded = [frozenset(), HISTORIES[1].items, frozenset({200, 1, 2})]
    expected = [
        slowly(network, items, plan, history, rows, limit)
        for history, rows, limit in zip(HISTORIES, excluded, limits, strict=True)
    ]
    network = network.to(device)
    table = Table.halved(network.item_vectors().detach())
    lane = Lane(Chain.of(network, plan, table, len(expected[0][0])), 4)
    lane.fill(Columns.of(HISTORIES, limits, excluded))
    lane.start()
    answers = lane.copied(3)
    assert not answers.doubtful.any()
    for user, (vectors, prompts, lists) in enumerate(expected):
        np.testing.assert_allclose(answers.vectors[user], vectors, atol=1e-5 * np.abs(vectors).max())
        np.testing.assert_array_equal(answers.prompts[user], prompts)
        limit = limits[user]
        np.testing.assert_array_equal(answers.rows[user, :limit], lists.rows[0])
        np.testing.assert_array_equal(answers.sources[user, :limit], lists.sources[0])
        assert not answers.rows[user, limit:].any()
