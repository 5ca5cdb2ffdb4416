"""`recall train`: interrupted by Ctrl-C it says how to go on, and goes on; it refuses before it works."""

import re
import signal
import subprocess
import sys

import pytest

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


def test_after_ctrl_c_the_same_command_goes_on(run_recall, folder):
    command = [sys.executable, "-m", "recall", *map(str, options(folder, "stopped"))]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as training:
        said = [next(line for line in training.stderr if "epoch 2:" in line)]
        training.send_signal(signal.SIGINT)
        said += training.stderr
        assert training.wait() == 130
    kept = int(re.search(r"interrupted after (\d+) epochs, which are kept: the same command goes on", "".join(said))[1])
    assert not (folder / "stopped").exists()
    again = run_recall(*options(folder, "stopped"))
    assert f"goes on after the {kept} epochs of an interrupted run" in again.err
    assert f"epoch {kept + 1}: " in again.err
    assert f"epoch {kept}: " not in again.err
    assert not (folder / ".stopped.unfinished").exists()


def test_an_output_that_holds_something_else_is_refused_before_training(run_recall, folder):
    refused = run_recall(*options(folder, "."))
    assert refused.status == 2
    assert re.search(r"holds '[^']+'.*, which is no part of a checkpoint; it is not replaced", refused.err)
    assert "epoch" not in refused.err
