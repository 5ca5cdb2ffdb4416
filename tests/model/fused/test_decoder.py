"""The compiled pass against the network, which defines it: every plan, any sizes, the same bits in any batch."""

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from model.batch import Batch
from model.fused.decoder import FusedDecoder, panels
from model.fused.library import UnavailableError
from model.records import Placement, PromptForm, PromptPlan

SOFT = PromptForm.SOFT
PLANS = {
    "one step": PromptPlan(),
    "two steps": PromptPlan(num_steps=2),
    "tail": PromptPlan(2, Placement.TAIL, 3),
    "all": PromptPlan(1, Placement.ALL, 2),
    "all, several": PromptPlan(3, Placement.ALL),
    "soft": PromptPlan(1, Placement.TAIL, 3, SOFT, 0.7),
    "summed": PromptPlan(0, Placement.NONE, 3, SOFT, 1.5, (1.0, 0.5, 0.25)),
}
SIZES = {
    "plain": {},
    "one head, one layer": {"num_heads": 1, "num_layers": 1},
    "an odd width of panels": {"dim": 96, "num_heads": 3, "num_layers": 3},
    "wide": {"dim": 128, "num_heads": 4},
    "sixteen items": {"num_items": 16},
    "items that fill no group": {"num_items": 1001},
    "longer than attention reads at once": {"max_length": 150},
    "users hidden": {"user_dropout": 1.0},
    "a segment for each step": {"num_segments": 4},
    "tokens that are sums": {"recency": 0.7, "past_weight": 0.8},
}


def histories(network, count=19, seed=0):
    """Windows of every kind of length, the empty and the full one included, and their users."""
    rng = np.random.default_rng(seed)
    lengths = [0, 1, 2, 15, 16, 17, network.config.max_length, *rng.integers(0, network.config.max_length, count)]
    lengths = [min(int(length), network.config.max_length) for length in lengths[:count]]
    windows = [rng.integers(1, network.config.num_items + 1, length).tolist() for length in lengths]
    return windows, rng.integers(0, network.config.num_users + 1, count).tolist()


def expected(network, plan, windows, users):
    with torch.no_grad():
        answers = network.queries(Batch.of(windows, users, network.config.max_length), plan)
    return answers.vectors.numpy(), answers.prompts.numpy()


@pytest.mark.parametrize("recency", [None, 0.7], ids=["items", "sums"])
@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS.keys())
def test_each_plan_is_answered_as_by_the_network(make_decoder, plan, recency):
    network = make_decoder(num_segments=3, recency=recency)
    windows, users = histories(network)
    vectors, prompts = expected(network, plan, windows, users)
    ours = FusedDecoder(network, plan).run(windows, users)
    assert np.array_equal(ours.prompts, prompts)
    np.testing.assert_allclose(ours.vectors, vectors, atol=1e-5 * np.abs(vectors).max())


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES.keys())
def test_networks_of_any_size_are_answered_for(make_decoder, sizes):
    network, plan = make_decoder(**sizes), PromptPlan(1, Placement.TAIL, 2)
    windows, users = histories(network)
    vectors, prompts = expected(network, plan, windows, users)
    ours = FusedDecoder(network, plan).run(windows, users)
    assert np.array_equal(ours.prompts, prompts)
    np.testing.assert_allclose(ours.vectors, vectors, atol=1e-5 * np.abs(vectors).max())


@pytest.fixture(scope="module", params=[*PLANS, "all with recency"])
def decoder(request, make_decoder):
    name, _, recency = request.param.partition(" with ")
    return FusedDecoder(make_decoder(**({"recency": 0.7} if recency else {})), PLANS[name])


WINDOWS = st.lists(st.lists(st.integers(1, 60), max_size=20), min_size=1, max_size=40)


@settings(max_examples=15)
@given(WINDOWS, st.randoms())
def test_a_history_has_the_same_bits_alone_and_in_any_batch(decoder, windows, random):
    users = [random.randrange(6) for _ in windows]
    together = decoder.run(windows, users)
    for number, (window, user) in enumerate(zip(windows, users, strict=True)):
        alone = decoder.run([window], [user])
        assert np.array_equal(alone.vectors[0], together.vectors[number])
        assert np.array_equal(alone.prompts[0], together.prompts[number])


@pytest.mark.parametrize("others", [(1,), (100,), (17, 98), tuple(range(20, 101))])
def test_of_equal_items_the_first_is_generated(make_decoder, others):
    network, plan, windows = make_decoder(num_items=100), PromptPlan(num_steps=2), [[3]]
    best = int(FusedDecoder(network, plan).run(windows, [0]).prompts[0, 0])
    with torch.no_grad():
        network.items.weight[list(others)] = network.items.weight[best].clone()
    assert FusedDecoder(network, plan).run(windows, [0]).prompts.tolist() == [[min(best, *others)]]


def test_the_highest_score_may_be_below_zero(make_decoder):
    network, plan = make_decoder(num_items=40), PromptPlan(num_steps=2)
    (state,), _ = expected(network, PromptPlan(), [[]], [0])
    with torch.no_grad():
        network.item_vectors().copy_(-torch.from_numpy(state) * (1 + (torch.arange(40) - 17).abs())[:, None])
    assert FusedDecoder(network, plan).run([[]], [0]).prompts.tolist() == [[18]]


@pytest.mark.parametrize("plan", [PLANS["two steps"], PLANS["soft"]])
def test_it_is_as_exact_as_torch(make_decoder, plan):
    """Beside the same network in double precision."""
    network = make_decoder(dim=96, num_heads=3, num_layers=3)
    windows, users = histories(network)
    theirs, _ = expected(network, plan, windows, users)
    ours = FusedDecoder(network, plan).run(windows, users).vectors
    exact, _ = expected(copy.deepcopy(network).double(), plan, windows, users)
    assert np.abs(ours - exact).mean() < 2 * np.abs(theirs - exact).mean()


def test_threads_do_not_disturb_each_other(make_decoder):
    network = make_decoder()
    decoder, (windows, users) = FusedDecoder(network, PLANS["soft"]), histories(network, 33)
    alone = decoder.run(windows, users)
    with ThreadPoolExecutor(4) as pool:
        answers = [*pool.map(lambda _: decoder.run(windows, users), range(40))]
    assert all(np.array_equal(answer.vectors, alone.vectors) for answer in answers)


def test_later_training_does_not_reach_half_of_it(make_decoder):
    """Layers are copied: a decoder is of a network whose weights are final."""
    network = make_decoder()
    windows, users = histories(network)
    decoder = FusedDecoder(network, PromptPlan())
    before = decoder.run(windows, users).vectors
    with torch.no_grad():
        network.blocks[0].attention.qkv.weight.zero_()
    assert np.array_equal(decoder.run(windows, users).vectors, before)


@pytest.mark.parametrize("shape", [(64, 5), (96, 32), (1, 3)])
def test_a_panel_holds_64_rows_of_a_weight_side_by_side(shape):
    weight = torch.randn(shape)
    columns = panels(weight).transpose(1, 2).reshape(-1, shape[1])
    assert torch.equal(columns[: len(weight)], weight)
    assert not columns[len(weight) :].any()


@pytest.mark.parametrize("sizes", [{"dim": 8, "num_heads": 1}, {"dim": 32, "num_heads": 4}, {"num_items": 15}])
def test_networks_too_narrow_for_it_are_left_to_torch(make_decoder, sizes):
    with pytest.raises(UnavailableError, match="network"):
        FusedDecoder(make_decoder(**sizes), PromptPlan())


def test_other_systems_are_left_to_torch(make_network):
    with pytest.raises(UnavailableError, match="network"):
        FusedDecoder(make_network("sasrec", dim=32), PromptPlan())
