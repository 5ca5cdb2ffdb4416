"""UserEncoder: an answer depends on its own history alone, to the last bit."""

from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from threadpoolctl import threadpool_info

from model.checkpoint import Checkpoint
from model.encoder import MAIN_SIZE, UserEncoder, padded_length, pin_compute_threads
from model.networks import build_network
from model.records import MAX_STEPS, History, Placement, PromptForm, PromptPlan, ServingPlan

NUM_ITEMS, NUM_USERS, MAX_LENGTH = 60, 5, 20  # 20: the padded lengths are 15 and 20
HISTORIES = st.builds(
    History,
    st.lists(st.integers(1, NUM_ITEMS), max_size=MAX_LENGTH + 5).map(tuple),
    st.integers(0, NUM_USERS),
)
SYSTEMS = {
    "recgpt-none": ("recgpt", {}, PromptPlan()),
    "recgpt-tail": ("recgpt", {}, PromptPlan(2, Placement.TAIL, 2)),
    "recgpt-all": ("recgpt", {}, PromptPlan(1, Placement.ALL, 2)),
    "recgpt-soft": ("recgpt", {"num_segments": 3}, PromptPlan(1, Placement.TAIL, 2, PromptForm.SOFT, 1.5)),
    "recgpt-summed": ("recgpt", {}, PromptPlan(0, Placement.NONE, 2, PromptForm.SOFT, 1.5, (1.0, 0.5))),
    "recgpt-recency": ("recgpt", {"recency": 0.7, "past_weight": 0.8}, PromptPlan(1, Placement.ALL, 2)),
    "comirec-sa": ("comirec", {"variant": "sa"}, PromptPlan()),
    "comirec-dr": ("comirec", {"variant": "dr"}, PromptPlan()),
}
OTHERS = {
    **{f"deepsets-{dim}": ("deepsets", dim) for dim in (8, 16, 32)},  # its layer has a width of one less
    **{kind: (kind, 16) for kind in ("bert4rec", "caser", "fism", "gru4rec", "narm", "sasrec", "stamp")},
}


@pytest.fixture(scope="module", params=SYSTEMS.values(), ids=SYSTEMS.keys())
def encoder(request, make_network, make_checkpoint):
    kind, config, plan = request.param
    network = make_network(kind, max_length=MAX_LENGTH, dim=16, **config).train()
    return UserEncoder(make_checkpoint(network, ServingPlan(plan)))


@settings(max_examples=12)
@given(st.lists(HISTORIES, min_size=1, max_size=20), st.randoms())
def test_batched_equals_single_to_the_bit(encoder, histories, random):
    random.shuffle(histories)
    together = encoder.encode(histories)
    for i, history in enumerate(histories):
        vectors, prompts = encoder.encode([history])
        assert np.array_equal(together.vectors[i], vectors[0])
        assert np.array_equal(together.prompts[i], prompts[0])


@pytest.mark.parametrize(("kind", "dim"), OTHERS.values(), ids=OTHERS.keys())
def test_every_system_answers_a_history_alone_as_in_a_batch(kind, dim, make_network, make_checkpoint):
    encoder = UserEncoder(make_checkpoint(make_network(kind, max_length=MAX_LENGTH, dim=dim)))
    random = Random(0)
    for _ in range(10):
        lengths = [random.randint(0, MAX_LENGTH) for _ in range(20)]
        histories = [History(tuple(random.choices(range(1, NUM_ITEMS + 1), k=length))) for length in lengths]
        together = encoder.encode(histories).vectors
        assert np.array_equal(together, np.concatenate([encoder.encode([each]).vectors for each in histories]))


def test_different_histories_get_different_vectors(encoder):
    vectors = encoder.encode([History((1, 2, 3)), History((1, 2, 4)), History((1, 2, 3, 4)), History(())]).vectors
    assert min(abs(vectors[i] - vectors[j]).max() for i in range(4) for j in range(i)) > 1e-3


def test_more_padding_changes_nothing_that_counts(encoder, make_batch):
    batch = make_batch(3, 7)
    wider = make_batch(3, 7, 12)
    narrow = encoder.network.queries(batch, encoder.plan).vectors
    padded = encoder.network.queries(wider, encoder.plan).vectors[:2]
    assert abs(narrow - padded).max() < 1e-5


def test_what_stands_in_the_padding_is_never_read(encoder, make_batch):
    batch = make_batch(3, 7, 0)
    before = encoder.network.queries(batch, encoder.plan).vectors
    batch.rows[~batch.real] = 9
    assert abs(encoder.network.queries(batch, encoder.plan).vectors - before).max() < 1e-6


@settings(max_examples=5)
@given(st.lists(st.integers(1, NUM_ITEMS), min_size=MAX_LENGTH, max_size=3 * MAX_LENGTH))
def test_long_history_is_its_window(encoder, items):
    long = History(tuple(items), 2)
    assert encoder.window(long) == tuple(items[-MAX_LENGTH:])
    assert np.array_equal(encoder.encode([long]).vectors, encoder.encode([History(encoder.window(long), 2)]).vectors)


def test_oldest_item_of_the_window_counts(encoder):
    items = tuple(range(1, MAX_LENGTH + 1))
    vectors = encoder.encode([History(items), History((50, *items[1:]))]).vectors
    assert abs(vectors[0] - vectors[1]).max() > 1e-6


@pytest.mark.parametrize("history", [History(()), History((), 3), History((4,)), History((7, 7, 7))])
def test_answers_are_finite(encoder, history):
    vectors, prompts = encoder.encode([history])
    assert vectors.shape[2] == encoder.network.config.dim
    assert np.isfinite(vectors).all()
    assert ((prompts >= 1) & (prompts <= NUM_ITEMS)).all()


def test_shapes_follow_the_plan(encoder):
    vectors, prompts = encoder.encode([History((1,)), History((1, 2))])
    num_vectors = encoder.plan.num_vectors if encoder.network.generates else encoder.network.config.num_interests
    tail = encoder.plan.num_prompts if encoder.plan.placement is Placement.TAIL else 0
    assert vectors.shape == (2, num_vectors, 16)
    assert prompts.shape == (2, tail + encoder.plan.num_steps - 1)


@pytest.mark.parametrize("row", [0, -1, NUM_ITEMS + 1, NUM_ITEMS + 2])
def test_item_outside_the_catalogue_is_refused(encoder, row):
    with pytest.raises(ValueError, match=r"item row lies outside 1\.\.60"):
        encoder.encode([History((1, 2)), History((1, row, 2))])


@pytest.mark.parametrize("user", [-1, NUM_USERS + 1])
def test_user_outside_the_catalogue_is_refused(encoder, user):
    with pytest.raises(ValueError, match=r"user row lies outside 0\.\.5"):
        encoder.encode([History((1, 2), user)])


def test_unknown_user_is_a_user_of_its_own(make_network, make_checkpoint):
    encoder = UserEncoder(make_checkpoint(make_network()))
    vectors = encoder.encode([History((1, 2, 3), user) for user in range(NUM_USERS + 1)]).vectors
    assert len({vector.tobytes() for vector in vectors}) == NUM_USERS + 1


def test_user_unseen_in_training_is_the_unknown_user(make_checkpoint):
    fresh = build_network("recgpt", {"num_items": NUM_ITEMS, "num_users": NUM_USERS, "dim": 8})
    vectors = UserEncoder(make_checkpoint(fresh)).encode([History((1, 2), user) for user in (0, 4)]).vectors
    assert np.array_equal(vectors[0], vectors[1])


def test_opens_what_was_saved(encoder, make_checkpoint, tmp_path, monkeypatch):
    # one size of a pass is enough to compare the weights: each takes long to trace where prompts stand everywhere
    monkeypatch.setattr("model.encoder.OTHER_SIZES", {"cpu": ()})
    make_checkpoint(encoder.network, ServingPlan(encoder.plan)).save(tmp_path)
    opened, history = UserEncoder(Checkpoint.load(tmp_path)), [History((3, 1, 2), 1)]
    assert np.array_equal(opened.encode(history).vectors, encoder.encode(history).vectors)
    assert np.array_equal(opened.item_vectors(), encoder.item_vectors())


def test_item_vectors_leave_out_padding_and_start(encoder):
    table = encoder.network.items.weight.detach()
    assert encoder.item_vectors().shape == (NUM_ITEMS, 16)
    assert np.array_equal(encoder.item_vectors(), table[1:-1])


@pytest.mark.parametrize(
    ("length", "max_length", "padded"),
    [(0, 50, 15), (15, 50, 15), (16, 50, 31), (32, 50, 50), (50, 50, 50), (3, 10, 10), (63, 200, 63), (64, 200, 127)],
)
def test_padded_length(length, max_length, padded):
    assert padded_length(length, max_length) == padded


def test_an_index_over_the_items_generates_what_scores_would(make_network, make_checkpoint):
    plan, asked = ServingPlan(PromptPlan(1, Placement.TAIL, 2)), []
    checkpoint = make_checkpoint(make_network(seed=4), plan)
    table = checkpoint.network.item_vectors().detach()

    def next_item(states):
        asked.append(len(states))
        return (states @ table.T).argmax(1) + 1

    dense, indexed = UserEncoder(checkpoint), UserEncoder(checkpoint, next_item=next_item)
    histories = [History(tuple(range(1, 1 + n)), n % 3) for n in range(9)]
    assert np.array_equal(indexed.encode(histories).prompts, dense.encode(histories).prompts)
    np.testing.assert_allclose(indexed.encode(histories).vectors, dense.encode(histories).vectors, atol=1e-5)
    assert asked
    assert set(indexed.num_eager) == {"index_proposes"}
    assert not dense.num_eager


def test_where_an_index_finds_nothing_scores_decide(make_network, make_checkpoint):
    checkpoint = make_checkpoint(make_network(seed=4), ServingPlan(PromptPlan(0, Placement.NONE, 2)))
    dense = UserEncoder(checkpoint)
    indexed = UserEncoder(checkpoint, next_item=lambda states: torch.zeros(len(states), dtype=torch.int64))
    assert np.array_equal(indexed.encode([History((1, 2))]).prompts, dense.encode([History((1, 2))]).prompts)


@pytest.mark.parametrize(("kind", "plan"), [("comirec", PromptPlan()), ("recgpt", PromptPlan())])
def test_what_generates_nothing_needs_no_index(make_network, make_checkpoint, kind, plan):
    checkpoint = make_checkpoint(make_network(kind), ServingPlan(plan))
    encoder = UserEncoder(checkpoint, next_item=lambda states: pytest.fail("asked"))
    encoder.encode([History((1,))])
    assert not encoder.num_eager


def test_every_size_of_a_pass_gives_the_same_bits(encoder):
    assert MAIN_SIZE["cpu"] in encoder.sizes
    histories = [History(tuple(1 + (n * k) % NUM_ITEMS for k in range(1 + n % 20)), n % 5) for n in range(37)]
    whole = encoder.encode(histories)
    for start, size in ((0, 16), (16, 8), (24, 4), (28, 9), (2, 1), (19, 2), (30, 1)):
        part = encoder.encode(histories[start : start + size])
        assert np.array_equal(part.vectors, whole.vectors[start : start + size])


@pytest.mark.parametrize("kind", ["recgpt", "comirec", "fism"])
def test_a_lone_history_has_a_pass_of_its_own(make_network, make_checkpoint, kind):
    """A pass of 4 serves where this is not proven, as for GRU4Rec."""
    sizes = UserEncoder(make_checkpoint(make_network(kind))).sizes
    assert {1, 4} < {*sizes}


def test_passes_are_traced(encoder):
    encoder.encode([History((1, 2))])
    assert not any(forward.eager for forward in encoder._passes.values())
    assert not encoder.num_eager


def test_a_large_catalogue_has_one_size(make_network, make_checkpoint, monkeypatch):
    monkeypatch.setattr("model.encoder.MANY_ITEMS", NUM_ITEMS - 1)
    encoder = UserEncoder(make_checkpoint(make_network()))
    assert encoder.sizes == (MAIN_SIZE["cpu"],)
    assert len(encoder.encode([History((n,)) for n in range(1, 12)]).vectors) == 11


@pytest.mark.parametrize("history", [History(()), History((3, 9, 27), 2), History(tuple(range(1, 25)))])
def test_a_soft_item_names_its_nearest_items_first_the_one_that_stands_for_it(encoder, history):
    nearest, answer = encoder.nearest(history), encoder.encode([history])
    is_soft = encoder.plan.form is PromptForm.SOFT
    assert nearest.rows[:, 0].tolist() == (answer.prompts[0].tolist() if is_soft else [])
    assert nearest.rows.shape == nearest.weights.shape == (len(nearest.rows), 3)
    assert (np.diff(nearest.weights, axis=1) <= 0).all()


def test_weights_of_nearest_items_are_those_of_the_mean(make_network, make_checkpoint):
    """The plan's query vectors are the states that its soft items follow."""
    plan = PromptPlan(0, Placement.NONE, 3, PromptForm.SOFT, 0.7)
    network = make_network("recgpt", max_length=MAX_LENGTH, dim=16)
    encoder, history = UserEncoder(make_checkpoint(network, ServingPlan(plan))), History((5, 4, 11))
    states = torch.from_numpy(encoder.encode([history]).vectors[0][:2])
    weights = torch.softmax(states @ encoder.item_vectors().T / 0.7, 1).numpy()
    nearest = encoder.nearest(history)
    assert nearest.rows.tolist() == (1 + np.argsort(-weights, axis=1)[:, :3]).tolist()
    np.testing.assert_allclose(nearest.weights, np.sort(weights, axis=1)[:, ::-1][:, :3], rtol=1e-4)


def test_of_many_soft_items_the_first_are_told(make_network, make_checkpoint):
    plan = PromptPlan(4, Placement.TAIL, 6, PromptForm.SOFT)
    encoder = UserEncoder(make_checkpoint(make_network("recgpt", max_length=MAX_LENGTH), ServingPlan(plan)))
    history = History((5, 4, 11))
    assert encoder.nearest(history).rows[:, 0].tolist() == encoder.encode([history]).prompts[0].tolist()[:MAX_STEPS]


def test_soft_items_of_a_blend_are_those_of_the_part_that_generates(make_network, make_checkpoint):
    parts = [{"system": "sasrec", "network": {"dim": 8}}, {"system": "recgpt", "network": {"dim": 16}}]
    plan, history = ServingPlan(PromptPlan(0, Placement.NONE, 3, PromptForm.SOFT, 0.5)), History((5, 4, 11))
    network = make_network("blend", parts=parts, max_length=MAX_LENGTH)
    whole, part = (UserEncoder(make_checkpoint(own, plan)) for own in (network, network.generating))
    assert whole.nearest(history).rows[:, 0].tolist() == whole.encode([history]).prompts[0].tolist()
    assert [column.tolist() for column in whole.nearest(history)] == [
        column.tolist() for column in part.nearest(history)
    ]


def test_nearest_items_of_rows_outside_the_catalogue_are_refused(make_network, make_checkpoint):
    plan = ServingPlan(PromptPlan(num_steps=2, form=PromptForm.SOFT))
    encoder = UserEncoder(make_checkpoint(make_network("recgpt"), plan))
    with pytest.raises(ValueError, match="an item row lies outside"):
        encoder.nearest(History((NUM_ITEMS + 1,)))


def test_compiled_code_answers_as_torch_does(make_network, make_checkpoint):
    """The same lists, vectors but for rounding; alone and in a batch the same bits (tests/model/fused)."""
    checkpoint = make_checkpoint(make_network(dim=32, max_length=MAX_LENGTH), ServingPlan(PromptPlan(num_steps=2)))
    fused, plain = UserEncoder(checkpoint), UserEncoder(checkpoint, fused=False)
    histories = [History(tuple(1 + (n * k) % NUM_ITEMS for k in range(n)), n % 5) for n in range(MAX_LENGTH + 5)]
    ours, theirs = fused.encode(histories), plain.encode(histories)
    assert plain.not_fused == "not_asked"
    assert np.array_equal(ours.prompts, theirs.prompts)
    np.testing.assert_allclose(ours.vectors, theirs.vectors, atol=3e-5)
    if fused.not_fused:
        pytest.skip(f"compiled code cannot be used here: {fused.not_fused}")
    assert (fused.num_padding, fused.num_tokens) == (0, plain.num_tokens)
    assert not fused._passes


def test_an_index_that_proposes_leaves_compiled_code_out(make_network, make_checkpoint):
    checkpoint = make_checkpoint(make_network(dim=32), ServingPlan(PromptPlan(num_steps=2)))
    encoder = UserEncoder(checkpoint, next_item=lambda states: torch.ones(len(states), dtype=torch.int64))
    assert encoder.not_fused == "index_proposes"
    assert encoder.encode([History((1, 2))]).prompts.tolist() == [[1]]


def test_a_service_multiplies_in_one_thread():
    pin_compute_threads()
    np.ones((2, 2)) @ np.ones((2, 2))
    assert torch.get_num_threads() == 1
    assert {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"} == {1}
