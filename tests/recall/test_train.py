"""`recall train`: interrupted by Ctrl-C it says how to go on, and goes on; it refuses before it works."""

import re
import signal
import subprocess
import sys

import pytest

from model.checkpoint import Checkpoint
from model.recipes.files import recipe_names
from model.training.warm import EPOCHS_SHARE, REPLAY
from recall.training.listing import num_epochs, recipe_lines

RECIPE = """
fism:
  network: {dim: 8, max_length: 10}
  stages: [{num_epochs: 20}]
  batch_users: 8
  evaluate_every: 20
"""


@pytest.fixture(scope="module")
def folder(tiny, tmp_path_factory):
    folder = tmp_path_factory.mktemp("train")
    tiny.save(folder / "data")
    (folder / "tiny.yaml").write_text(RECIPE)
    return folder


def options(folder, output):
    given = {"recipe": "tiny.yaml", "data": "data", "output": output}
    return ["train", "fism", *(word for name, path in given.items() for word in (f"--{name}", folder / path))]


def test_after_ctrl_c_the_same_command_goes_on(folder):
    command = [sys.executable, "-m", "recall", *map(str, options(folder, "stopped"))]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as training:
        said = [next(line for line in training.stderr if "epoch 2:" in line)]
        training.send_signal(signal.SIGINT)
        said += training.stderr
        assert training.wait() == 130
    kept = int(re.search(r"interrupted after (\d+) epochs, which are kept: the same command goes on", "".join(said))[1])
    assert not (folder / "stopped").exists()
    # started in the same way: with another number of threads it would be another training
    again = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    assert f"goes on after the {kept} epochs of an interrupted run" in again
    assert f"epoch {kept + 1}: " in again
    assert f"epoch {kept}: " not in again
    assert not (folder / ".stopped.unfinished").exists()


@pytest.fixture(scope="module")
def chosen(run_recall, folder):
    assert run_recall(*options(folder, "chosen")).status == 0
    return folder / "chosen"


def test_a_warm_start_does_a_share_of_the_work(run_recall, folder, chosen):
    warm = run_recall(*options(folder, "warm"), "--start-from", chosen)
    assert warm.status == 0
    # the log is the same, so nothing in it is new: each epoch is of a third of the histories
    assert warm.err.count("fism epoch") == round(EPOCHS_SHARE / REPLAY * Checkpoint.load(chosen).provenance.epochs[0])
    assert Checkpoint.load(folder / "warm").provenance.started_from


def test_a_refit_runs_the_chosen_epochs_and_is_not_measured(run_recall, folder, chosen):
    again = run_recall(*options(folder, "refit"), "--refit", chosen)
    assert again.err.count("fism epoch") == Checkpoint.load(chosen).provenance.epochs[0]
    assert again.last_line["valid"] == {}
    assert run_recall("build", "--checkpoint", folder / "refit", "--output", folder / "bundle").status == 0
    measured = run_recall("evaluate", "--bundle", folder / "bundle", "--data", folder / "data")
    assert measured.status == 2
    assert "it is a refit: it was trained on the validation and test events too" in measured.err


@pytest.mark.parametrize("option", ["--seed", "--max-epochs"])
def test_a_refit_takes_seed_and_epochs_from_its_checkpoint(run_recall, folder, chosen, option):
    refused = run_recall(*options(folder, "refused"), "--refit", chosen, option, "3")
    assert refused.status == 2
    assert "--refit has the seed and the epochs of its checkpoint; leave --seed and --max-epochs out" in refused.err


def test_an_output_that_holds_something_else_is_refused_before_training(run_recall, folder):
    refused = run_recall(*options(folder, "."))
    assert refused.status == 2
    assert re.search(r"holds '[^']+'.*, which is no part of a checkpoint; it is not replaced", refused.err)
    assert "epoch" not in refused.err


def test_the_help_lists_every_recipe_and_arm_with_its_epochs(run_recall):
    said = " ".join(run_recall("train", "--help", COLUMNS="200").out.split())
    assert "s3rec 6+20" in said
    assert "gru4rec, comirec 4; narm" in said
    assert num_epochs("toys", "recgpt") == "20&8"


def test_every_recipe_is_listed():
    assert [name for name, _ in recipe_lines()] == recipe_names()
