"""The duties of every baseline of the table: answers of its own history alone, refusals, an index that serves."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from index.bundle.build import build_bundle
from index.bundle.bundle import open_bundle
from model.batch import Batch
from model.checkpoint import Checkpoint
from model.encoder import UserEncoder
from model.networks import SYSTEMS
from model.records import History, Placement, PromptPlan

NUM_ITEMS, NUM_USERS, MAX_LENGTH = 60, 5, 20  # 20: the padded lengths are 15 and 20
BASELINES = [kind for kind in SYSTEMS if kind not in ("recgpt", "comirec", "blend")]
SEQUENTIAL = [kind for kind in BASELINES if kind not in ("popularity", "bpr", "deepsets")]  # Deep Sets reads no order
HISTORIES = st.builds(
    History,
    st.lists(st.integers(1, NUM_ITEMS), max_size=MAX_LENGTH + 5).map(tuple),
    st.integers(0, NUM_USERS),
)


@pytest.fixture(scope="module")
def make_system(make_network):
    return lambda kind: make_network(kind, max_length=MAX_LENGTH, dim=1 if kind == "popularity" else 16)


@pytest.fixture(scope="module", params=BASELINES)
def network(request, make_system):
    return make_system(request.param)


@pytest.fixture(scope="module", params=SEQUENTIAL)
def sequential(request, make_system):
    return make_system(request.param)


@pytest.fixture(scope="module")
def encoder(network, make_checkpoint):
    return UserEncoder(make_checkpoint(network))


def answers(network, *histories, users=None):
    with torch.no_grad():
        batch = Batch.of(histories, users or [0] * len(histories), MAX_LENGTH)
        return network.queries(batch, PromptPlan()).vectors


@settings(max_examples=8)
@given(st.lists(HISTORIES, min_size=1, max_size=20), st.randoms())
def test_batched_equals_single_to_the_bit(encoder, histories, random):
    random.shuffle(histories)
    together = encoder.encode(histories).vectors
    for vectors, history in zip(together, histories, strict=True):
        assert np.array_equal(vectors, encoder.encode([history]).vectors[0])


def test_the_longest_histories_have_the_same_bits_in_any_pass(encoder):
    """Bits would differ in the last rows of a product, where no block of it divides their number."""
    rows = np.random.default_rng(6).integers(1, NUM_ITEMS + 1, (160, MAX_LENGTH + 1))
    histories = [History(tuple(row), 0) for row in rows.tolist()]
    together = encoder.encode(histories).vectors
    assert all(
        np.array_equal(encoder.encode([own]).vectors[0], whole) for own, whole in zip(histories, together, strict=True)
    )


def test_more_padding_changes_nothing_that_counts(network):
    histories = [[1, 2, 3], [9, 8, 7, 6, 5, 4, 3], []]
    narrow, wide = answers(network, *histories), answers(network, *histories, [*range(1, 21)])
    torch.testing.assert_close(narrow, wide[:3], atol=1e-5, rtol=1e-5)


def test_what_stands_in_the_padding_is_never_read(network, make_batch):
    batch = make_batch(3, 7, 0)
    before = network.queries(batch, PromptPlan()).vectors
    batch.rows[~batch.real] = 9
    torch.testing.assert_close(network.queries(batch, PromptPlan()).vectors, before, atol=1e-6, rtol=0)


@pytest.mark.parametrize("history", [History(()), History((), 3), History((4,)), History((7,) * 30)])
def test_answers_are_finite(encoder, history):
    vectors, prompts = encoder.encode([history])
    assert vectors.shape == (1, 1, encoder.network.config.dim)
    assert prompts.shape == (1, 0)
    assert np.isfinite(vectors).all()


def test_another_order_is_another_answer(sequential):
    vectors = answers(sequential, [1, 2, 3, 4], [4, 3, 2, 1], [1, 2, 3], [])
    assert min(float((vectors[i] - vectors[j]).abs().max()) for i in range(4) for j in range(i)) > 1e-3


def test_the_empty_history_is_trained(sequential, make_batch):
    queries, _ = sequential.train().training_pairs(make_batch(1, 1, 1, 1))
    sequential.eval().zero_grad()
    queries.sum().backward()
    read = getattr(sequential, "read", sequential.items)  # FISM reads another table than it ranks
    assert read.weight.grad[sequential.start_row].abs().max() > 0


@pytest.mark.parametrize("kind", ["bpr", "deepsets", *SEQUENTIAL])
def test_targets_are_the_items_of_the_histories(make_system, kind):
    network = make_system(kind)
    queries, targets = network.training_pairs(Batch.of([[4, 9, 30], [7]], [1, 0], MAX_LENGTH))
    assert queries.flatten(1).shape == (len(targets), network.config.dim)
    assert {7} < set(targets[:, 0].tolist()) <= {4, 9, 30, 7}


@pytest.mark.parametrize("kind", [*(kind for kind in SEQUENTIAL if kind != "bert4rec"), "comirec", "recgpt"])
def test_a_window_adds_the_items_that_follow_the_target(make_system, kind):
    _, targets = make_system(kind).training_pairs(
        replace(Batch.of([[4, 9, 30, 12], [7]], [1, 0], MAX_LENGTH), window=3)
    )
    following = {4: [9, 30], 9: [30, 12], 30: [12, 0], 12: [0, 0], 7: [0, 0]}
    assert {row[0]: row[1:] for row in targets.tolist()}.items() <= following.items()
    assert len(targets) >= 2


@pytest.mark.parametrize("plan", [PromptPlan(1, Placement.TAIL), PromptPlan(1, Placement.ALL), PromptPlan(num_steps=2)])
def test_plan_with_prompts_is_refused(network, make_batch, plan):
    with pytest.raises(ValueError, match=f"{type(network).__name__} generates no prompts and takes one step"):
        network.queries(make_batch(3), plan)


def test_training_with_prompts_is_refused(network, make_batch):
    with pytest.raises(ValueError, match=f"{type(network).__name__} generates no prompts"):
        network.training_pairs(make_batch(3), 1)


@pytest.mark.parametrize("kind", sorted({*BASELINES} - {"s3rec"}))
def test_pretraining_is_refused_where_there_is_none(make_system, make_batch, kind):
    network = make_system(kind)
    with pytest.raises(ValueError, match=f"{type(network).__name__} has no pre-training of its own"):
        network.pretraining_loss(make_batch(3))


def test_what_was_saved_serves(network, encoder, make_checkpoint, tmp_path):
    """The bundle replays its golden queries when it is opened."""
    make_checkpoint(network).save(tmp_path / "checkpoint")
    build_bundle(tmp_path / "checkpoint", tmp_path / "bundle")
    assert open_bundle(tmp_path / "bundle").manifest.arm_kind == network.kind
    opened, history = UserEncoder(Checkpoint.load(tmp_path / "checkpoint")), [History((3, 1, 2), 1)]
    assert np.array_equal(opened.encode(history).vectors, encoder.encode(history).vectors)
    assert np.array_equal(opened.item_vectors(), encoder.item_vectors())
