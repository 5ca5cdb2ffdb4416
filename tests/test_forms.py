"""The study of K and of m : n with both forms of generated items: its plans, its two systems, and points made once."""

import json

import numpy as np
import pytest
import torch

from benchmarks import forms
from model.batch import Batch
from model.catalogue import Catalogue, IdMap, Ragged
from model.data.sequences import SequenceData
from model.networks.blend import Blend
from model.recipes.files import load_recipe
from model.records import PromptPlan, ServingPlan
from model.training.fit import fit
from model.training.stages import StageFolder

NUM_ITEMS, NUM_USERS = 30, 40
RECIPE = """
recgpt:
  system: blend
  network: {max_length: 10}
  batch_users: 16
  warmup_steps: 2
  ema_decay: 0.0
  stages: []
  parts:
    - {system: recgpt, network: {dim: 8, num_layers: 1}, stages: [{num_epochs: 1}]}
    - {system: fism, network: {dim: 8}, stages: [{num_epochs: 1}]}
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    """Recipe, checkpoint and data of a blend, as the command takes them."""
    folder = tmp_path_factory.mktemp("forms")
    train, valid, test = (
        [[1 + (user + skip + n) % NUM_ITEMS for n in range(length)] for user in range(NUM_USERS)]
        for skip, length in ((0, 8), (8, 1), (9, 1))
    )
    counts = np.bincount(np.concatenate(train), minlength=NUM_ITEMS + 1)[1:]
    catalogue = Catalogue(IdMap.of(range(100, 700, 20)), IdMap.of(range(NUM_USERS)), counts)
    data = SequenceData("circles", catalogue, *map(Ragged.of, (train, valid, test)), "leave-one-out")
    data.save(folder / "data")
    (folder / "circles.yaml").write_text(RECIPE, encoding="utf-8")
    fit(load_recipe(str(folder / "circles.yaml"), "recgpt"), data).save(folder / "checkpoint")
    return folder


@pytest.fixture
def words(study, tmp_path):
    return [
        *("--recipe", str(study / "circles.yaml"), "--checkpoint", str(study / "checkpoint")),
        *(
            "--data",
            str(study / "data"),
            "--stages",
            str(tmp_path / "stages"),
            "--output",
            str(tmp_path / "rows.jsonl"),
        ),
    ]


def test_every_point_is_a_row_of_both_systems_and_is_measured_once(words, tmp_path, monkeypatch):
    monkeypatch.setattr(forms, "GRID", {4: 1})
    forms.main(words)
    lines = (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    by_k = [row for row in rows if row["study"] == "K" and row["system"] == "blend"]
    expected = [(way.name, k) for way in forms.WAYS for k in range(1 + way.largest)]
    assert [(row["form"], row["K"]) for row in by_k] == expected
    grid = [row for row in rows if row["study"] == "m : n" and row["system"] == "decoder alone"]
    assert [(row["form"], row["m"], row["n"]) for row in grid[:4]] == [
        ("argmax, nothing tuned", m, 4 - m) for m in (1, 2, 3, 4)
    ]
    assert len(rows) == 2 * (len(expected) + 4 * len(forms.GRIDS))
    forms.main(words)
    assert (tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines() == lines


def test_nothing_tuned_and_nothing_generated_is_the_checkpoint_itself(words, tmp_path, monkeypatch):
    monkeypatch.setattr(forms, "WAYS", forms.WAYS[:1])
    monkeypatch.setattr(forms, "GRIDS", ())
    forms.main(words)
    first = json.loads((tmp_path / "rows.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert (first["K"], first["ours"], first["gain"], first["overlap"]) == (0, first["theirs"], 0, 1)


def test_both_systems_come_of_one_pass(study):
    checkpoint = forms.Checkpoint.load(study / "checkpoint")
    data = SequenceData.load(study / "data")
    recipe = load_recipe(str(study / "circles.yaml"), "recgpt")
    one_pass = forms.Forms(recipe, checkpoint, data, StageFolder(study / "stages"))
    beside, blend = one_pass.network(None), checkpoint.network.eval()
    assert isinstance(blend, Blend)
    batch = Batch.of([np.array([1, 2, 3]), np.array([4])], [1, 2], 10)
    for plan in (PromptPlan(), forms.averaged(3), forms.GENERATION):
        whole, alone = beside.queries(batch, plan).vectors.chunk(2, 1)
        assert torch.equal(whole, blend.queries(batch, plan).vectors)
        scores = blend.weights[0] * blend.parts[0].queries(batch, plan).vectors @ blend.parts[0].item_vectors().T
        torch.testing.assert_close(alone @ blend.item_vectors().T, scores)


def test_plans_of_k():
    assert forms.argmax(0) == forms.soft(0) == forms.averaged(0) == PromptPlan()
    assert (forms.argmax(3).placement, forms.soft(3).placement) == ("all", "tail")
    assert forms.averaged(2).step_weights == (0.5, 0.25, 0.25)
    assert all(ServingPlan(way.plan(way.largest)) for way in forms.WAYS)


def test_a_checkpoint_that_is_no_blend_is_refused(study):
    checkpoint = forms.Checkpoint.load(study / "checkpoint")
    alone = forms.replace(checkpoint, network=checkpoint.network.parts[0], plan=ServingPlan())
    recipe = load_recipe(str(study / "circles.yaml"), "recgpt")
    with pytest.raises(ValueError, match="no blend with a part that generates"):
        forms.Forms(recipe, alone, SequenceData.load(study / "data"), StageFolder(study / "stages"))
