"""Bundles and settings that a service refuses (fault tests 14, 26): status 2 and one sentence before it listens."""

import hashlib
import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from index.bundle.build import build_bundle

WEIGHTS = "checkpoint/weights.safetensors"
RULE = {
    "key": "test",
    "hashAttribute": "user_id",
    "hashVersion": 2,
    "variations": ["comirec", "recgpt"],
    "weights": [0.5, 0.5],
}


@pytest.fixture
def bundle(bundles, tmp_path):
    """A copy that may be spoiled."""
    return shutil.copytree(bundles["recgpt"], tmp_path / "bundle")


@pytest.fixture
def refused(run_recall, tmp_path):
    """The sentence of a service that does not start with these options."""

    def run(*options):
        ended = run_recall("serve", "--port", 0, "--state-dir", tmp_path / "state", *options)
        assert (ended.status, ended.out) == (2, ""), ended.err
        assert ended.sentence.startswith("recall: ")
        return ended.sentence

    return run


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def records_of(folder):
    """The records of every file but the folder's own manifest."""
    files = [path for path in folder.rglob("*") if path.is_file() and path != folder / "manifest.json"]
    return {
        path.relative_to(folder).as_posix(): {
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "num_bytes": path.stat().st_size,
        }
        for path in files
    }


def sign(folder):
    """Manifests whose checksums are right, of the files as they are now: what a careful forger would write."""
    own = folder / "checkpoint"
    body = {"kind": "checkpoint", "files": records_of(own)}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    (own / "manifest.json").write_text(json.dumps(body | {"digest": digest}, indent=1, sort_keys=True) + "\n")
    body = json.loads((folder / "manifest.json").read_bytes())
    del body["checksum"]
    body["files"] = records_of(folder)
    body["checksum"] = hashlib.sha256((json.dumps(body, indent=1, sort_keys=True) + "\n").encode()).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(body, indent=1, sort_keys=True) + "\n")


def change_weights(folder, change):
    weights = load_file(folder / WEIGHTS)
    save_file({name: change(name, array) for name, array in weights.items()}, folder / WEIGHTS)
    sign(folder)


@pytest.mark.parametrize("name", ["manifest.json", WEIGHTS, "vectors.safetensors", "golden.safetensors"])
def test_one_flipped_bit(refused, bundle, name):
    flip(bundle / name, 4001)
    assert name in refused("--arm", f"recgpt={bundle}")


class Bomb:
    """Its unpickling would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize(
    ("signed", "reason"), [(False, "is not in the manifest"), (True, "can carry code")], ids=["slipped in", "signed"]
)
def test_pickle_is_refused_and_not_run(refused, bundle, tmp_path, signed, reason):
    (bundle / "checkpoint" / "extra.pkl").write_bytes(pickle.dumps(Bomb(tmp_path / "ran")))
    if signed:
        sign(bundle)
    assert reason in refused("--arm", f"recgpt={bundle}")
    assert not (tmp_path / "ran").exists()


def test_signed_nan_in_the_weights(refused, bundle):
    change_weights(bundle, lambda name, array: array * float("nan") if name == "norm.weight" else array)
    assert "holds NaN or infinite weights in norm.weight" in refused("--arm", f"recgpt={bundle}")


def test_signed_weights_of_another_training(refused, bundle):
    change_weights(bundle, lambda name, array: array * 1.01 if name.endswith("norm_forward.weight") else array)
    assert "off the golden vectors" in refused("--arm", f"recgpt={bundle}")


def test_signed_weights_that_are_no_weights(refused, bundle):
    (bundle / WEIGHTS).write_bytes(b"weights" * 100)
    sign(bundle)
    assert "cannot be read" in refused("--arm", f"recgpt={bundle}")


def test_signed_vectors_of_another_bundle(refused, bundle, bundles):
    shutil.copy(bundles["comirec"] / "vectors.safetensors", bundle / "vectors.safetensors")
    sign(bundle)
    assert "of the golden hits" in refused("--arm", f"recgpt={bundle}")


def test_signed_index_of_another_bundle(refused, checkpoints, tmp_path):
    for kind in ("recgpt", "comirec"):
        build_bundle(checkpoints[kind], tmp_path / kind, "HNSW8")
    shutil.copy(tmp_path / "comirec" / "index.faiss", tmp_path / "recgpt" / "index.faiss")
    sign(tmp_path / "recgpt")
    assert "neighbours of its own items" in refused("--arm", f"recgpt={tmp_path / 'recgpt'}")


def test_folder_without_a_bundle(refused, tmp_path):
    assert "arm recgpt: " in refused("--arm", f"recgpt={tmp_path / 'nowhere'}")


def test_one_bad_arm_of_two_is_named(refused, bundle, bundles):
    flip(bundle / WEIGHTS, 4001)
    assert "arm b: " in refused("--arm", f"a={bundles['recgpt']}", "--arm", f"b={bundle}")


def test_no_arm(refused):
    assert "no arm to serve" in refused()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "is not JSON"),
        ("[]", "experiments.json has no features.recall_arm; its form is"),
        (RULE | {"weights": [0.9, 0.4]}, "weights that sum to 1.3"),
        (RULE | {"variations": ["comirec", "sasrec"]}, "names the arm 'sasrec'"),
        (RULE | {"hashVersion": 1}, "only 2 is unbiased"),
        (RULE | {"colour": "red"}, "unknown key 'colour'"),
    ],
    ids=["half", "list", "weights of 1.3", "arm without a bundle", "biased hash", "unknown key"],
)
def test_bad_experiments(refused, arm_options, tmp_path, content, reason):
    feature = {"defaultValue": "comirec", "rules": [content]}
    text = content if isinstance(content, str) else json.dumps({"features": {"recall_arm": feature}})
    (tmp_path / "experiments.json").write_text(text)
    assert reason in refused(*arm_options, "--experiments", tmp_path / "experiments.json")


def test_experiments_that_do_not_exist(refused, arm_options, tmp_path):
    assert "cannot be read" in refused(*arm_options, "--experiments", tmp_path / "nothing.json")


def test_unusable_redis_url(refused, arm_options):
    assert "Redis URL" in refused(*arm_options, "--redis-url", "http://localhost")


def test_state_folder_of_a_running_service(run_recall, service, arm_options):
    ended = run_recall("serve", "--port", 0, "--state-dir", service.state, *arm_options)
    assert ended.status == 2
    assert "in use by another recall service" in ended.sentence


def test_gpu_that_is_not_there(refused, arm_options):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    assert "torch sees no GPU" in refused(*arm_options, "--device", "cuda")


@pytest.mark.skipif(not hasattr(os, "SCHED_BATCH"), reason="this system has no SCHED_BATCH")
def test_computing_threads_do_not_push_the_event_loop_aside(service, client):
    assert client.post("/recall/recgpt", json={"history": [10_001]}).status_code == 200
    main = service.process.pid
    policies = {int(task.name): os.sched_getscheduler(int(task.name)) for task in Path(f"/proc/{main}/task").iterdir()}
    assert policies[main] == os.SCHED_OTHER
    # one that encodes and one that searches, for each arm that was asked
    assert list(policies.values()).count(os.SCHED_BATCH) >= 2
