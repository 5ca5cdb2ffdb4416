"""Training on cycles of items, where the next item is always known: 40 items, the successor of i is i + 1."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from model.batch import Batch
from model.catalogue import Catalogue, IdMap, Ragged
from model.data.sequences import SequenceData
from model.evaluation.protocol import EvalSplit, top_lists
from model.recipes.schema import PlanSearch, Recipe, Stage, Window
from model.records import Placement, PromptForm, PromptPlan
from model.training.batches import TrainingWindows
from model.training.fit import fit as train
from model.training.plans import choose_plan
from model.training.trainer import DivergedError, Trainer, move_average, with_epochs

NUM_ITEMS, NUM_USERS, LENGTH = 40, 120, 8
TINY = Recipe(
    name="tiny",
    arm="recgpt",
    system="recgpt",
    stages=(Stage(num_epochs=1, learning_rate=0.01),),
    network={"dim": 16, "max_length": 10, "num_layers": 1, "dropout": 0.1},
    batch_users=16,
    warmup_steps=5,
    ema_decay=0.8,
    metric="recall@5",
    plan=PlanSearch(cutoff=5),
)
TINY_COMIREC = replace(
    TINY, arm="comirec", system="comirec", network={"dim": 16, "max_length": 10, "num_interests": 2, "dropout": 0.1}
)


def cycle(start, length):
    return [(start + i) % NUM_ITEMS + 1 for i in range(length)]


def make_data(train, valid, test):
    parts = [Ragged.of(rows) for rows in (train, valid, test)]
    counts = np.bincount(parts[0].values, minlength=NUM_ITEMS + 1)[1:]
    users = IdMap.of(range(len(train)))
    return SequenceData("cycles", Catalogue(IdMap.of(range(NUM_ITEMS)), users, counts), *parts, "leave-one-out")


@pytest.fixture(scope="module")
def data():
    starts = np.random.default_rng(0).integers(NUM_ITEMS, size=NUM_USERS).tolist()
    return make_data(*([cycle(s + skip, n) for s in starts] for skip, n in ((0, LENGTH), (LENGTH, 1), (LENGTH + 1, 1))))


def weights_of(recipe, data, seed=0):
    return train(recipe, data, seed).network.state_dict()


def same(first, second):
    return all(first[name].equal(second[name]) for name in first)


def popularity_recall(data):
    eval_split = EvalSplit.of(data, "valid")
    seen = [set(data.history(user, "valid").tolist()) for user in eval_split.users.tolist()]
    lists = [[row for row in data.catalogue.by_popularity.tolist() if row not in past][:5] for past in seen]
    return eval_split.score(np.array(lists), [5])["recall@5"]


@pytest.mark.parametrize(("recipe", "num_epochs"), [(TINY, 10), (TINY_COMIREC, 8)], ids=["recgpt", "comirec"])
def test_learns_what_can_be_learnt(data, recipe, num_epochs):
    losses = []
    recipe = replace(recipe, stages=(Stage(num_epochs=num_epochs, learning_rate=0.01),))
    checkpoint = Trainer(recipe, data).fit(lambda report: losses.append(report.loss))
    assert losses[-1] < 0.6 * losses[0]
    assert checkpoint.provenance.metrics["recall@5"] > 0.3 + popularity_recall(data)


@pytest.mark.parametrize("recipe", [TINY, TINY_COMIREC], ids=["recgpt", "comirec"])
def test_a_window_shares_the_probability_among_what_follows(data, recipe):
    recipe, shares = replace(recipe, stages=(Stage(num_epochs=10, learning_rate=0.01),)), {}
    for length in (1, 3):
        network = Trainer(replace(recipe, window=Window(length=length, decay=1.0)), data).fit().network
        with torch.no_grad():
            queries = network.queries(Batch.of([cycle(5, LENGTH)], [0], 10), PromptPlan()).vectors[0]
            chances = torch.softmax((queries @ network.item_vectors().T).amax(0), 0)
        following = cycle(5 + LENGTH, 3)
        shares[length] = float(chances[following[2] - 1] / chances[following[0] - 1])
    assert shares[3] > 1.3 * shares[1]


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        (replace(TINY, loss="bce"), "a window needs the softmax; the loss bce learns the next item alone"),
        (replace(TINY, stages=(Stage(num_epochs=1, loss="bpr"), Stage(num_epochs=1))), "the loss bpr learns the next"),
        (replace(TINY, system="bert4rec", network={"dim": 16}), "bert4rec learns the next item alone"),
    ],
)
def test_a_window_that_cannot_be_trained_is_refused(data, recipe, reason):
    with pytest.raises(ValueError, match=reason):
        Trainer(replace(recipe, window=Window(length=3, decay=0.5)), data)


def test_a_stage_of_steps_trains_what_follows_a_soft_item(data):
    steps = Stage(num_epochs=6, num_steps=2, learning_rate=0.01)
    plan = PlanSearch(cutoff=5, num_steps=(2,), forms=(PromptForm.SOFT,), sums=(0.5, 1.0), min_gain=0.0)
    recipe = replace(TINY, stages=(steps,), plan=plan, network=TINY.network | {"num_segments": 3})
    checkpoint = Trainer(recipe, data).fit()
    chosen = checkpoint.plan.prompts
    assert (chosen.num_steps, chosen.form) == (2, PromptForm.SOFT)
    split = EvalSplit.of(data, "valid")
    alone = top_lists(checkpoint.network, split, replace(chosen, step_weights=()), 5)
    for step in range(2):
        assert split.score(alone.rows[:, step], [5])["recall@5"] > 0.3 + popularity_recall(data)


def test_a_system_that_generates_nothing_has_no_stage_of_steps(data):
    stages = (Stage(num_epochs=1, num_steps=2),)
    with pytest.raises(ValueError, match="ComiRec takes one step; its recipe may not have a stage of 2"):
        Trainer(replace(TINY_COMIREC, stages=stages), data).fit()


def test_training_that_diverges_stops_with_the_epoch(data):
    stages = (Stage(num_epochs=1, learning_rate=0.01), Stage(num_epochs=5, learning_rate=1e30))
    with pytest.raises(DivergedError, match=r"the loss is nan in stage 2, epoch 1; a lower learning_rate may help"):
        Trainer(replace(TINY, stages=stages), data).fit()


def test_a_catalogue_of_one_item_trains_or_is_refused():
    parts = [Ragged.of([[1] * n, [1] * n]) for n in (3, 1, 1)]
    data = SequenceData("one", Catalogue(IdMap.of([7]), IdMap.of([1, 2]), np.array([6])), *parts, "leave-one-out")
    checkpoint = train(replace(TINY, network=TINY.network | {"spectral_start": 0.05}), data)
    assert all(torch.isfinite(weights).all() for weights in checkpoint.network.state_dict().values())
    with pytest.raises(ValueError, match="recgpt learns an item against another one, and the catalogue has a single"):
        train(replace(TINY, loss="bpr"), data)


def test_a_stage_may_have_a_loss_of_its_own(data):
    stages = Stage(num_epochs=1, loss="bce"), Stage(num_epochs=1, learning_rate=1e-6)
    losses = []
    Trainer(replace(TINY, stages=stages), data).fit(lambda report: losses.append(report.loss))
    # at the start every item scores about the same: two sigmoids of 0, then one of 40 items
    assert losses == pytest.approx([2 * np.log(2), np.log(NUM_ITEMS)], rel=0.05)


@pytest.mark.parametrize("equal", [True, False])
def test_positions_weigh_the_same_in_any_batches_if_asked_to(equal):
    data = make_data([cycle(0, 9), cycle(20, 3), cycle(30, 2)], [[10], [24], [33]], [[11], [25], [34]])
    still = replace(
        TINY,
        stages=(Stage(num_epochs=1, learning_rate=1e-30),),
        network=TINY.network | {"dropout": 0.0, "user_dropout": 1.0},
        equal_positions=equal,
    )

    def gradient(batch_users):
        trainer, gradients = Trainer(replace(still, batch_users=batch_users), data), []
        trainer.network.items.weight.register_hook(gradients.append)
        trainer.fit()
        return torch.stack(gradients).mean(0)

    whole, parts = gradient(3), gradient(1)
    assert ((whole - parts).abs().max() < 0.02 * whole.abs().max()) == equal


@pytest.mark.parametrize("recipe", [TINY, TINY_COMIREC], ids=["recgpt", "comirec"])
def test_the_same_seed_gives_the_same_weights(data, recipe):
    first = weights_of(recipe, data, seed=3)
    torch.rand(5)  # what ran before does not matter
    assert same(first, weights_of(recipe, data, seed=3))
    assert not same(first, weights_of(recipe, data, seed=4))


def test_the_test_split_is_never_read(data):
    """Neither for training nor for the choice of the epoch or the plan."""
    poisoned = replace(data, test=Ragged.of([[NUM_ITEMS + 1000] * 3] * NUM_USERS))
    recipe = replace(TINY, stages=(Stage(num_epochs=3, learning_rate=0.01),), evaluate_every=1)
    expected, trained = train(recipe, data), train(recipe, poisoned)
    assert same(expected.network.state_dict(), trained.network.state_dict())
    assert (trained.plan, trained.provenance.metrics) == (expected.plan, expected.provenance.metrics)


def test_the_validation_split_is_never_trained_on(data):
    second = replace(data, valid=Ragged.of([[1]] * NUM_USERS))
    assert same(weights_of(TINY, data), weights_of(TINY, second))


class Scripted(Trainer):
    """Measures what it is told to, and remembers the weights that were measured."""

    def measure(self, plan):
        self.seen = [*getattr(self, "seen", []), {k: v.clone() for k, v in self.measured.state_dict().items()}]
        return self.script.pop(0)


def run_script(data, script, **changes):
    stages = (Stage(num_epochs=len(script), learning_rate=0.01),)
    trainer = Scripted(replace(TINY, stages=stages, evaluate_every=1, **changes), data)
    trainer.script = script
    return trainer, trainer.fit().network.state_dict()


@pytest.mark.parametrize("ema_decay", [0.8, 0.0])
def test_the_best_weights_are_put_back(data, ema_decay):
    trainer, weights = run_script(data, [0.1, 0.5, 0.2, 0.5], ema_decay=ema_decay)
    assert same(weights, trainer.seen[1])
    assert not same(weights, trainer.seen[3])


def test_stops_when_validation_no_longer_rises(data):
    trainer, weights = run_script(data, [0.3, 0.2, 0.4, 0.1, 0.2, 0.9], patience=2)
    assert trainer.script == [0.9]
    assert same(weights, trainer.seen[2])


def test_measures_every_few_epochs_and_at_the_end(data):
    reports = []
    recipe = replace(TINY, stages=(Stage(num_epochs=4),), evaluate_every=3)
    Trainer(recipe, data).fit(reports.append)
    assert [report.metric is not None for report in reports] == [False, False, True, True]
    assert [(report.stage, report.epoch, report.num_epochs) for report in reports] == [(0, n, 4) for n in (1, 2, 3, 4)]


def test_the_average_is_kept_not_the_last_step(data):
    assert not same(weights_of(TINY, data), weights_of(replace(TINY, ema_decay=0.0), data))


def test_the_average_is_of_the_part_that_the_recipe_says(data):
    slow = replace(TINY, ema_decay=0.99)
    assert same(weights_of(slow, data), weights_of(replace(slow, averaged_part=9), data))
    assert not same(weights_of(slow, data), weights_of(replace(slow, averaged_part=3), data))


@pytest.mark.parametrize(("count", "expected"), [(1, 9 / 11), (8, 0.5), (10**6, 0.002)])
def test_memory_of_the_average_starts_short(count, expected):
    average = torch.zeros(1)
    move_average(0.998, [average], [torch.ones(1)], torch.tensor(count))
    assert average.item() == pytest.approx(expected)


def test_memory_of_the_average_may_be_a_larger_part_of_the_steps():
    average = torch.zeros(1)
    move_average(0.998, [average], [torch.ones(1)], torch.tensor(8), part=3)
    assert average.item() == pytest.approx(3 / 12)


def with_prompts(recipe, learning_rate=0.01):
    return replace(recipe, stages=(*recipe.stages, Stage(num_epochs=1, num_prompts=1, learning_rate=learning_rate)))


@pytest.mark.parametrize(("recipe", "trained"), [(TINY, False), (with_prompts(TINY), True)])
def test_only_the_prompt_stage_trains_the_segment_of_generated_items(data, recipe, trained):
    trainer = Trainer(recipe, data)
    before = trainer.network.segments.weight.detach().clone()
    trainer.fit()
    assert bool((trainer.network.segments.weight - before)[1].abs().max() > 1e-3) is trained


def test_a_stage_that_does_not_help_is_not_taken(data):
    recipe = replace(TINY, stages=(Stage(num_epochs=3, learning_rate=0.01),))
    kept = train(with_prompts(recipe, learning_rate=30.0), data)
    assert same(weights_of(recipe, data), kept.network.state_dict())


def test_the_plan_is_one_of_those_searched(data):
    search = PlanSearch(cutoff=5, num_prompts=(1,), placements=(Placement.TAIL,), num_steps=(2,))
    plan = train(replace(with_prompts(TINY), plan=search), data).plan
    assert (plan.prompts.num_prompts, plan.prompts.placement, plan.prompts.num_steps) == (1, Placement.TAIL, 2)
    assert len(plan.quotas) == 2


def test_comirec_refuses_a_prompt_stage(data):
    with pytest.raises(ValueError, match="ComiRec generates no prompts; its recipe may not have a prompt stage"):
        train(with_prompts(TINY_COMIREC), data)


def test_provenance_says_where_it_came_from(data):
    trained = train(TINY, data, seed=6).provenance
    assert (trained.data_digest, trained.data_name, trained.recipe, trained.seed) == (data.digest, "cycles", "tiny", 6)
    assert trained.training_seconds > 0


def test_sizes_come_from_the_data(data):
    config = Trainer(TINY, data).network.config
    assert (config.num_items, config.num_users) == (NUM_ITEMS, NUM_USERS)


def test_with_epochs_cuts_every_stage():
    recipe = replace(TINY, stages=(Stage(num_epochs=9), Stage(num_epochs=2, num_prompts=1)))
    assert [stage.num_epochs for stage in with_epochs(recipe, 3).stages] == [3, 2]


def test_no_epochs_are_refused():
    with pytest.raises(ValueError, match="a stage needs at least 1"):
        with_epochs(TINY, 0)


def windows_of(sequence, max_length):
    none = [[]]
    return [row.tolist() for row in TrainingWindows.of(make_data([sequence], none, none), max_length).rows]


def test_windows_end_at_the_newest_item():
    assert windows_of([1, 2, 3, 4, 5, 6, 7], 2) == [[5, 6, 7], [2, 3, 4], [1]]


@given(st.lists(st.integers(1, NUM_ITEMS), max_size=30), st.integers(1, 9))
def test_every_item_is_in_one_window(sequence, max_length):
    windows = windows_of(sequence, max_length)
    assert [item for window in reversed(windows) for item in window] == sequence
    assert all(1 <= len(window) <= max_length + 1 for window in windows)


@given(st.lists(st.integers(0, 25), min_size=1, max_size=40), st.integers(1, 9))
def test_an_epoch_trains_on_every_window_once_as_its_own_user(lengths, batch_users):
    none = [[]] * len(lengths)
    windows = TrainingWindows.of(make_data([cycle(user, n) for user, n in enumerate(lengths)], none, none), 10)
    trained = [
        (int(user), row[:length].tolist())
        for batch in windows.batches(batch_users, np.random.default_rng(0))
        for row, length, user in zip(batch.rows, batch.lengths, batch.users, strict=True)
    ]
    expected = [(int(user), row.tolist()) for user, row in zip(windows.users, windows.rows, strict=True)]
    assert sorted(trained) == sorted(expected)


def test_every_epoch_mixes_the_users_anew(data):
    windows, rng = TrainingWindows.of(data, 10), np.random.default_rng(0)
    first, second = ({frozenset(batch.users.tolist()) for batch in windows.batches(16, rng)} for _ in range(2))
    assert not first & second


def test_batches_hold_similar_lengths():
    lengths = np.random.default_rng(0).integers(1, 30, 160).tolist()
    none = [[]] * len(lengths)
    windows = TrainingWindows.of(make_data([cycle(0, n) for n in lengths], none, none), 40)
    batches = list(windows.batches(10, np.random.default_rng(0)))
    assert max(int(batch.lengths.max() - batch.lengths.min()) for batch in batches) <= 6


def test_a_dearer_plan_must_be_better_by_more_than_noise(data):
    trainer = Trainer(TINY, data)
    steps = []
    for min_gain in (-1e9, 1e9):
        search = PlanSearch(cutoff=5, num_steps=(1, 2), min_gain=min_gain)
        steps.append(choose_plan(trainer.measured, trainer.eval_split, search, "recall@5")[0].prompts.num_steps)
    assert steps == [2, 1]
