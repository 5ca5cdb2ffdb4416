"""A checkpoint comes back as it was, or is refused with the reason."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from model.catalogue import Catalogue, IdMap, Ragged
from model.checkpoint import WEIGHTS, Checkpoint, CheckpointError, read_settings
from model.folders.files import FolderRefused
from model.folders.whole import MANIFEST
from model.metadata import CATALOGUE, CONFIG
from model.networks import build_network
from model.records import Placement, PromptForm, PromptPlan, ServingPlan

PLAN = ServingPlan(PromptPlan(2, Placement.TAIL, 2), (7, 3), 0.5)


@pytest.fixture
def checkpoint(make_checkpoint, make_network):
    return make_checkpoint(make_network(), PLAN)


@pytest.fixture
def whole(checkpoint, tmp_path):
    checkpoint.save(tmp_path)
    return tmp_path


@pytest.fixture
def folder(whole):
    """A checkpoint as earlier versions wrote it: whatever is changed in it is judged on its own."""
    return unbind(whole)


def unbind(folder):
    (folder / MANIFEST).unlink()
    change_config(folder, lambda parts: parts.update(format=1))
    return folder


def change_config(folder, change):
    parts = json.loads((folder / CONFIG).read_text())
    change(parts)
    (folder / CONFIG).write_text(json.dumps(parts))


def change_weights(folder, **changes):
    save_file(load_file(folder / WEIGHTS) | changes, folder / WEIGHTS)


def refusal(folder):
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.load(folder)
    return str(caught.value)


@pytest.mark.parametrize(("kind", "config"), [("recgpt", {}), ("comirec", {}), ("comirec", {"variant": "dr"})])
def test_weights_come_back(make_checkpoint, make_network, tmp_path, kind, config):
    saved = make_network(kind, **config)
    make_checkpoint(saved).save(tmp_path)
    loaded = Checkpoint.load(tmp_path).network
    assert (loaded.kind, loaded.config) == (saved.kind, saved.config)
    assert loaded.state_dict().keys() == saved.state_dict().keys()
    assert all(loaded.state_dict()[name].equal(tensor) for name, tensor in saved.state_dict().items())


@pytest.mark.parametrize(
    "plan",
    [
        PLAN,
        ServingPlan(),
        ServingPlan(PromptPlan(1, Placement.ALL, 3), (8, 1, 1)),
        ServingPlan(PromptPlan(0, Placement.NONE, 2, PromptForm.SOFT, 1.5, (1.0, 0.5))),
    ],
)
def test_plan_comes_back(make_checkpoint, tmp_path, plan):
    make_checkpoint(plan=plan).save(tmp_path)
    assert Checkpoint.load(tmp_path).plan == plan


def test_what_is_loaded_drops_nothing_out(make_checkpoint, make_network, tmp_path):
    """Whoever measures a loaded checkpoint must not have to know that networks are built for training."""
    make_checkpoint(make_network("recgpt", dropout=0.5).train()).save(tmp_path)
    assert not any(module.training for module in Checkpoint.load(tmp_path).network.modules())


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, CATALOGUE])
def test_a_file_of_another_save_is_refused(whole, make_checkpoint, make_network, tmp_path, name):
    other = tmp_path / "other"
    replace(make_checkpoint(make_network(seed=5)), catalogue=named_otherwise()).save(other)
    (whole / name).write_bytes((other / name).read_bytes())
    shutil.rmtree(other)
    sentence = f"{whole} is not whole: {name} is not the file that was saved with the rest; make it again with `recall"
    assert sentence in refusal(whole)


def named_otherwise():
    return Catalogue(IdMap.of(range(7, 67)), IdMap.of([]), np.arange(60))


def test_a_checkpoint_without_its_manifest_is_refused(whole):
    (whole / MANIFEST).unlink()
    assert f"{whole} has no manifest.json, so nothing says that its files belong together" in refusal(whole)


def test_a_bare_folder_that_holds_something_else_is_not_replaced(checkpoint, tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(FolderRefused, match=r"holds 'thesis\.txt', which is no part of a checkpoint"):
        checkpoint.save(tmp_path)


def test_provenance_comes_back(checkpoint, folder):
    assert Checkpoint.load(folder).provenance == checkpoint.provenance


def test_catalogue_comes_back(checkpoint, folder):
    saved, loaded = checkpoint.catalogue, Checkpoint.load(folder).catalogue
    assert loaded.items.ids.tolist() == saved.items.ids.tolist()
    assert loaded.users.ids.tolist() == saved.users.ids.tolist()
    assert loaded.counts.tolist() == saved.counts.tolist()
    assert loaded.categories is None


def test_categories_come_back(checkpoint, tmp_path):
    categories = Ragged.of([[row % 3, 7] for row in range(60)])
    replace(checkpoint, catalogue=replace(checkpoint.catalogue, categories=categories)).save(tmp_path)
    assert Checkpoint.load(tmp_path).catalogue.categories[4].tolist() == [1, 7]


def test_saving_again_replaces(make_checkpoint, make_network, folder):
    make_checkpoint(make_network(seed=5)).save(folder)
    assert Checkpoint.load(folder).network.items.weight.equal(make_network(seed=5).items.weight)
    assert Checkpoint.load(folder).plan == ServingPlan()


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, CATALOGUE])
def test_missing_file(folder, name):
    (folder / name).unlink()
    assert f"{name} missing; make one with `recall train`" in refusal(folder)


@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, CATALOGUE])
@pytest.mark.parametrize("left", [0, 40])
def test_cut_file(folder, name, left):
    (folder / name).write_bytes((folder / name).read_bytes()[:left])
    assert f"{folder} cannot be read" in refusal(folder)


@pytest.mark.parametrize("change", [lambda parts: parts.pop("plan"), lambda parts: parts["provenance"].pop("seed")])
def test_config_that_lacks_a_part(folder, change):
    change_config(folder, change)
    assert "cannot be read" in refusal(folder)


def test_other_format(folder):
    change_config(folder, lambda parts: parts.update(format=3))
    assert "has checkpoint format 3; this version reads 1 and 2" in refusal(folder)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_no_numbers(folder, value):
    weights = load_file(folder / WEIGHTS)["norm.weight"].clone()
    weights[3] = value
    change_weights(folder, **{"norm.weight": weights})
    assert "holds NaN or infinite weights in norm.weight" in refusal(folder)


def test_weights_of_another_width(folder):
    change_config(folder, lambda parts: parts["network"].update(dim=16))
    assert "does not fit its config" in refusal(folder)


def test_a_weight_too_many(folder):
    change_weights(folder, strange=torch.zeros(2))
    assert "strange" in refusal(folder)


def test_changed_item_count(folder):
    change_config(folder, lambda parts: parts["network"].update(num_items=61))
    assert "does not fit its config: size mismatch for items.weight" in refusal(folder)


def test_catalogue_of_another_size(folder):
    ids = IdMap.of(range(59))
    Catalogue(ids, IdMap.of([]), np.zeros(59)).save(folder / CATALOGUE)
    assert "59 item ids for 60 item vectors" in refusal(folder)


def test_unknown_system(folder):
    change_config(folder, lambda parts: parts.update(kind="magic"))
    assert "unknown system 'magic'; known are recgpt, comirec" in refusal(folder)


def test_building_an_unknown_system_names_the_known():
    with pytest.raises(ValueError, match="unknown system 'magic'; known are recgpt, comirec"):
        build_network("magic", {})


@pytest.mark.parametrize("kind", ["recgpt", "comirec"])
def test_unknown_setting_names_the_known(kind):
    with pytest.raises(ValueError, match=rf"{kind} has no setting depth, width; it has num_items, .*dropout"):
        build_network(kind, {"num_items": 5, "width": 3, "depth": 2})


def test_unknown_variant_names_the_known():
    with pytest.raises(ValueError, match="ComiRec has no variant 'SA'; it has sa, dr"):
        build_network("comirec", {"num_items": 5, "variant": "SA"})


def rewritten(folder, **settings):
    config = json.loads((folder / "config.json").read_text())
    config["network"] |= settings
    (folder / "config.json").write_text(json.dumps(config))


def test_a_retired_setting_that_did_nothing_is_dropped(make_checkpoint, tmp_path):
    make_checkpoint().save(tmp_path)
    rewritten(unbind(tmp_path), num_members=1)
    assert Checkpoint.load(tmp_path).network.config == make_checkpoint().network.config


def test_a_retired_setting_in_use_is_refused_in_one_sentence(make_checkpoint, tmp_path):
    make_checkpoint().save(tmp_path)
    rewritten(unbind(tmp_path), num_members=3)
    with pytest.raises(
        CheckpointError, match="trained with num_members, which this version does not have: train it again"
    ):
        Checkpoint.load(tmp_path)


def test_the_parts_of_a_blend_drop_them_too():
    part = {"system": "recgpt", "network": {"dim": 8, "num_members": 1}}
    assert read_settings({"dim": 8, "parts": [part]})["parts"] == [{"system": "recgpt", "network": {"dim": 8}}]
