"""A training that was interrupted after any epoch ends with the same bits as one that was not."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.catalogue import Catalogue, IdMap, Ragged
from model.data.sequences import SequenceData
from model.recipes.schema import PlanSearch, Recipe, Stage
from model.records import Placement
from model.training.batches import TrainingWindows
from model.training.fit import epochs_done, fit
from model.training.stages import StageFolder

NUM_ITEMS, NUM_USERS = 30, 60
PLAIN = Recipe(
    name="tiny",
    arm="sasrec",
    system="sasrec",
    stages=(Stage(num_epochs=7, learning_rate=0.01),),
    network={"dim": 8, "max_length": 10, "num_layers": 1, "dropout": 0.2},
    batch_users=16,
    warmup_steps=6,
    ema_decay=0.9,
    evaluate_every=2,
    patience=1,
)
STAGES = replace(
    PLAIN,
    system="recgpt",
    network=PLAIN.network | {"user_dropout": 0.5},
    stages=(Stage(num_epochs=3, learning_rate=0.01), Stage(num_epochs=3, num_prompts=1, learning_rate=0.01)),
    plan=PlanSearch(num_prompts=(1,), placements=(Placement.NONE, Placement.ALL), min_gain=-1.0),
)
PRETRAINED = replace(
    PLAIN,
    system="s3rec",
    stages=(Stage(num_epochs=2, objective="pretrain", learning_rate=0.01), Stage(num_epochs=2, learning_rate=0.01)),
)
FISM = replace(PLAIN, system="fism", network={"dim": 8, "max_length": 10}, loss="bpr", ema_decay=0.0)
BLEND = replace(PLAIN, system="blend", stages=(), network={"max_length": 10}, parts=(PLAIN, FISM))


@pytest.fixture(scope="module")
def data():
    """Histories that wander: what is best on validation is not the last epoch."""
    rng = np.random.default_rng(3)

    def walks(length):
        return Ragged.of(
            1 + (rng.integers(NUM_ITEMS) + rng.integers(-2, 5, length).cumsum()) % NUM_ITEMS for _ in range(NUM_USERS)
        )

    train, valid, test = walks(8), walks(1), walks(1)
    counts = np.bincount(train.values, minlength=NUM_ITEMS + 1)[1:]
    catalogue = Catalogue(IdMap.of(range(NUM_ITEMS)), IdMap.of(range(NUM_USERS)), counts)
    return SequenceData("walks", catalogue, train, valid, test, "leave-one-out")


@pytest.fixture
def kept(tmp_path):
    return StageFolder(tmp_path / "unfinished", every_epoch=True)


def stop_after(num_epochs):
    """A callback that interrupts as Ctrl-C does, in the epoch after `num_epochs`."""
    seen = []

    def stop(report):
        seen.append(report)
        if len(seen) == num_epochs:
            raise KeyboardInterrupt

    return stop


def interrupted(recipe, data, kept, num_epochs):
    torch.rand(7)  # another process has another random state
    with pytest.raises(KeyboardInterrupt):
        fit(recipe, data, 5, on_epoch=stop_after(num_epochs), kept=kept)


def same(first, second):
    return all(weights.equal(second.network.state_dict()[name]) for name, weights in first.network.state_dict().items())


@pytest.mark.parametrize(
    "recipe",
    [PLAIN, STAGES, PRETRAINED, FISM, BLEND],
    ids=["plain", "stages", "pretrained", "sampled loss", "blend"],
)
def test_whatever_epoch_it_was_interrupted_after(recipe, data, kept):
    reports = []
    whole = fit(recipe, data, 5, on_epoch=reports.append)
    for num_epochs in range(1, len(reports)):
        interrupted(recipe, data, kept, num_epochs)
        assert epochs_done(recipe, data, 5, "cpu", kept) == num_epochs
    again = []
    resumed = fit(recipe, data, 5, on_epoch=again.append, kept=kept)
    assert same(whole, resumed)
    assert (whole.plan, whole.provenance.metrics) == (resumed.plan, resumed.provenance.metrics)
    assert [(r.stage, r.epoch, r.loss, r.metric) for r in again] == [
        (r.stage, r.epoch, r.loss, r.metric) for r in reports
    ]


def test_it_goes_on_with_the_epoch_that_was_next(data, kept, monkeypatch):
    interrupted(PLAIN, data, kept, 3)
    trained, batches = [], TrainingWindows.batches
    monkeypatch.setattr(TrainingWindows, "batches", lambda *given: trained.append(1) or batches(*given))
    reports = []
    fit(PLAIN, data, 5, on_epoch=reports.append, kept=kept)
    assert len(trained) == len(reports) - 3


@pytest.mark.parametrize("change", [{"seed": 6}, {"recipe": replace(PLAIN, batch_users=8)}])
def test_another_run_takes_nothing_over(data, kept, change):
    interrupted(PLAIN, data, kept, 2)
    given = {"recipe": PLAIN, "data": data, "seed": 5, "device": "cpu", "kept": kept} | change
    assert epochs_done(**given) == 0
    assert same(fit(**given), fit(**given | {"kept": None}))


def test_a_damaged_file_is_named(data, kept):
    interrupted(PLAIN, data, kept, 2)
    [file] = kept.path.iterdir()
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(ValueError, match=r"\.epoch is damaged .*; delete it, and the stage is trained again"):
        fit(PLAIN, data, 5, kept=kept)


def test_a_folder_of_finished_stages_keeps_no_epochs(data, kept, tmp_path):
    interrupted(PLAIN, data, StageFolder(tmp_path / "stages"), 2)
    assert not (tmp_path / "stages").exists()
