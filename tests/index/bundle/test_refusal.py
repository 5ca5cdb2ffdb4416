"""Bad bundles (fault tests 14 and 15): refused with a reason, also when the forger signed his change."""

import json
import os
import random
import shutil
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file

from index.bundle.bundle import BundleRefused, open_bundle, write_bundle
from index.bundle.manifest import GOLDEN, VECTORS
from index.bundle.tensors import save_arrays
from index.factory import build_index

PARTS = ["manifest.json", VECTORS, "index.faiss", GOLDEN, "checkpoint/weights.safetensors"]


def refused(folder, reason=None):
    with pytest.raises(BundleRefused, match=reason) as caught:
        open_bundle(folder)
    assert str(folder) in str(caught.value)


def flip(path, bit):
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def test_60_single_bit_flips_are_refused(folder):
    rng = random.Random(0)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    for number in range(60):
        path = files[number % len(files)]
        bit = rng.randrange(8 * path.stat().st_size)
        flip(path, bit)
        refused(folder)
        flip(path, bit)
    open_bundle(folder)


def test_any_bit_of_the_manifest_counts(exact_folder):
    path = exact_folder / "manifest.json"
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 31):
        flip(path, bit)
        refused(exact_folder, r"manifest\.json")
        path.write_bytes(whole)


@pytest.mark.parametrize("name", PARTS)
def test_truncated(folder, name):
    path = folder / name
    os.truncate(path, path.stat().st_size // 2)
    refused(folder, r"bytes, not|not JSON")


@pytest.mark.parametrize("name", PARTS)
def test_missing(folder, name):
    (folder / name).unlink()
    refused(folder, f"{name} is missing")


def test_no_bundle_at_all(tmp_path):
    refused(tmp_path / "nowhere", "No such file")


@pytest.mark.parametrize("name", ["model.pkl", "checkpoint/weights.pt", "checkpoint/pytorch_model.bin", ".x", "a/b"])
def test_extra_file(folder, name):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"\x80\x04.")
    refused(folder, f"'{name}' is not in the manifest")


@pytest.mark.parametrize("name", PARTS)
def test_a_link_in_the_place_of_a_file(folder, tmp_path, name):
    shutil.move(folder / name, tmp_path / "outside")
    (folder / name).symlink_to(tmp_path / "outside")
    refused(folder, "is a link or a special file")


def test_a_link_in_the_place_of_a_folder(folder, tmp_path):
    shutil.move(folder / "checkpoint", tmp_path / "outside")
    (folder / "checkpoint").symlink_to(tmp_path / "outside")
    refused(folder, "is a link or a special file")


def test_a_pipe_in_the_place_of_a_file(folder):
    (folder / VECTORS).unlink()
    os.mkfifo(folder / VECTORS)
    refused(folder, "is a link or a special file")


def test_a_link_to_the_whole_bundle_is_followed_once(folder, tmp_path):
    (tmp_path / "current").symlink_to(folder)
    assert open_bundle(tmp_path / "current").path == folder


@pytest.mark.parametrize(
    "path",
    [
        "../outside",
        "/etc/passwd",
        "checkpoint/../../outside",
        "checkpoint/..",
        "checkpoint\\..\\x",
        "checkpoint/a\n",
        "x",
        "",
    ],
)
def test_signed_path_escape(folder, forge, path):
    forge(folder, lambda body: body["files"].update({path: {"sha256": "0" * 64, "num_bytes": 1}}))
    refused(folder, "has no place in a bundle")


@pytest.mark.parametrize("name", ["weights.pt", "model.pkl", "net.py", "X.BIN"])
def test_signed_code(folder, forge, name):
    (folder / "checkpoint" / name).write_bytes(b"\x80\x04.")
    forge(folder, lambda body: body["files"].update({f"checkpoint/{name}": {"sha256": "0" * 64, "num_bytes": 3}}))
    refused(folder, "can carry code")


def test_signed_pickle_inside_an_array(folder_1, forge):
    np.save(folder_1 / "vectors.npy", np.array([print], dtype=object), allow_pickle=True)
    forge(folder_1)
    refused(folder_1, "allow_pickle=False")


@pytest.mark.parametrize("name", [VECTORS, GOLDEN])
@pytest.mark.parametrize(
    "change", [lambda b: b"garbage" * 500, lambda b: b[:-8], lambda b: b + b"12345678", lambda b: b""]
)
def test_signed_bytes_that_are_no_tensors(folder, forge, name, change):
    (folder / name).write_bytes(change((folder / name).read_bytes()))
    forge(folder)
    refused(folder, "the tensors cannot be read")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda v: np.where(np.arange(len(v))[:, None] == 4, np.nan, v), "row 5 is not finite"),
        (lambda v: np.where(np.arange(len(v))[:, None] == 4, np.inf, v), "row 5 is not finite"),
        (lambda v: np.where(np.arange(len(v))[:, None] == 4, 1e30, v), "row 5 is not finite"),
        (lambda v: np.where(np.arange(len(v))[:, None] == 4, 0, v), "row 5 is zero"),
        (lambda v: v[:-1], "have shape"),
        (lambda v: v[:, :-1], "have shape"),
        (lambda v: v.reshape(-1), "have shape"),
        (lambda v: -v, "of the golden hits"),
    ],
)
def test_signed_bad_vectors(exact_folder, forge, change, reason):
    vectors = change(load_file(exact_folder / VECTORS)["vectors"])
    save_arrays(exact_folder / VECTORS, {"vectors": np.asarray(vectors, dtype=np.float32)})
    forge(exact_folder)
    refused(exact_folder, reason)


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.float16])
def test_signed_other_dtype(exact_folder, forge, dtype):
    save_arrays(exact_folder / VECTORS, {"vectors": load_file(exact_folder / VECTORS)["vectors"].astype(dtype)})
    forge(exact_folder)
    refused(exact_folder, f"the array 'vectors' holds {np.dtype(dtype)}, not float32")


@pytest.mark.parametrize("dtype", [np.float64, ">f4"])
def test_signed_other_dtype_of_format_1(folder_1, forge, dtype):
    np.save(folder_1 / "vectors.npy", np.load(folder_1 / "vectors.npy").astype(dtype))
    forge(folder_1)
    refused(folder_1, "the array 'vectors' holds")


def test_signed_tensors_of_another_name(exact_folder, forge):
    save_arrays(exact_folder / VECTORS, {"weights": load_file(exact_folder / VECTORS)["vectors"]})
    forge(exact_folder)
    refused(exact_folder, "the file holds weights, not vectors")


def test_manifest_claims_2_62_items(folder, forge):
    forge(folder, lambda body: body.update(num_items=2**62))
    refused(folder, "have shape")


def test_header_claims_2_62_items(exact_folder, forge):
    path = exact_folder / VECTORS
    header = json.loads(path.read_bytes()[8:].split(b"}}")[0] + b"}}")
    header["vectors"]["shape"] = [2**62, 16]
    claim = json.dumps(header).encode()
    path.write_bytes(len(claim).to_bytes(8, "little") + claim + path.read_bytes()[-900 * 64 :])
    forge(exact_folder, lambda body: body.update(num_items=2**62))
    refused(exact_folder, "the tensors cannot be read")


@pytest.mark.parametrize("claim", [2**62, 2**36])
def test_header_of_format_1_claims_too_much(folder_1, forge, claim):
    path = folder_1 / "vectors.npy"
    path.write_bytes(path.read_bytes().replace(b"(900, 16), }" + b" " * 19, b"(%d, 16), }" % claim + b" " * 19, 1))
    forge(folder_1, lambda body: body.update(num_items=claim))
    refused(folder_1, "cannot be read|have shape")


def test_manifest_claims_2_62_bytes(folder, forge):
    forge(folder, lambda body: body["files"][VECTORS].update(num_bytes=2**62))
    refused(folder, "bytes, not 4611686018427387904")


def test_signed_index_claims_2_62_items(contents, tmp_path, forge):
    contents = replace(contents, index=build_index(contents.vectors, "Flat"))
    write_bundle(tmp_path / "bundle", contents)
    data = bytearray((tmp_path / "bundle" / "index.faiss").read_bytes())
    data[8:16] = (2**62).to_bytes(8, "little")
    (tmp_path / "bundle" / "index.faiss").write_bytes(data)
    forge(tmp_path / "bundle")
    refused(tmp_path / "bundle", "FAISS cannot read the index")


def other_index(folder, forge, vectors):
    build_index(vectors, "HNSW16").save(folder / "index.faiss")
    forge(folder)


def test_signed_index_of_another_bundle(folder, contents, forge):
    other_index(folder, forge, np.roll(contents.vectors, 300, axis=0))
    refused(folder, "of its own items")


@pytest.mark.parametrize("part", [np.s_[:500], np.s_[:, :8]])
def test_signed_index_of_another_size(folder, contents, forge, part):
    other_index(folder, forge, np.ascontiguousarray(contents.vectors[part]))
    refused(folder, "the index holds")


def test_unsigned_index_of_another_bundle(folder, contents):
    build_index(contents.vectors, "HNSW8").save(folder / "index.faiss")
    refused(folder, r"index\.faiss has \d+ bytes")


def test_signed_garbage_index(folder, forge):
    (folder / "index.faiss").write_bytes(b"garbage" * 1000)
    forge(folder)
    refused(folder, "FAISS cannot read the index")


def forge_golden(folder, forge, **changes):
    arrays = load_file(folder / GOLDEN)
    save_arrays(folder / GOLDEN, arrays | {name: change(arrays[name]) for name, change in changes.items()})
    forge(folder)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"expected": lambda rows: rows % 900 + 1}, "of the golden hits"),
        ({"expected": lambda rows: rows * 0}, "expects no hits"),
        ({"expected": lambda rows: rows + 900}, "do not exist"),
        ({"expected": lambda rows: rows[1:]}, "do not fit their hits"),
        ({"vectors": lambda vectors: vectors * np.float32(np.nan)}, "not finite"),
        ({"vectors": lambda vectors: vectors[:, :1]}, "golden vectors have shape"),
        ({"items": lambda rows: rows * 0}, "do not exist"),
        ({"items": lambda rows: rows[1:]}, "torn"),
        ({"offsets": lambda ends: ends[::-1].copy()}, "torn"),
        ({"users": lambda users: -users}, "torn"),
        ({"users": lambda users: users.astype(np.int32)}, "the array 'users' holds int32"),
    ],
)
def test_signed_bad_golden_queries(folder, forge, changes, reason):
    forge_golden(folder, forge, **changes)
    refused(folder, reason)


def test_golden_below_the_floor(folder, forge):
    forge_golden(
        folder, forge, expected=lambda rows: np.concatenate([rows[:, :16], rows[:, 16:] * 0 + np.arange(1, 5)], axis=1)
    )
    refused(folder, r"finds 0\.8\d+ of the golden hits; the floor is 0\.9")


def test_compressed_golden_queries(folder_1, forge):
    np.savez_compressed(folder_1 / "golden.npz", **dict(np.load(folder_1 / "golden.npz")))
    forge(folder_1)
    refused(folder_1, "the archive is compressed")


def test_a_torn_archive(folder_1, forge):
    (folder_1 / "golden.npz").write_bytes((folder_1 / "golden.npz").read_bytes()[:-30])
    forge(folder_1)
    refused(folder_1, "cannot be read")


def test_files_of_one_format_under_the_number_of_another(folder_1, forge):
    forge(folder_1, lambda body: body.update(format_version=2))
    refused(folder_1, "has no place in a bundle")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"format_version": 3}, "format version is 3; this code reads 1 and 2: build it again"),
        ({"format_version": True}, "format_version is True|has no place"),
        ({"surprise": 1}, "other fields"),
        ({"num_items": True}, "num_items is True"),
        ({"dim": 0}, "dim is 0"),
        ({"arm_kind": None}, "arm_kind is None"),
        ({"metrics": {"hit_rate": "high"}}, "not all numbers"),
        ({"recall_floor": 0.0}, "recall_floor"),
        ({"effort": {"nprobe": 0}}, "nprobe is 0"),
        ({"index_spec": "exact"}, "do not fit the index spec"),
        ({"files": {}}, "lists no golden.safetensors"),
        ({"files": []}, "other fields"),
    ],
)
def test_signed_odd_manifests(folder, forge, change, reason):
    forge(folder, lambda body: body.update(change))
    refused(folder, reason)


@pytest.mark.parametrize("text", ["", "[]", "{", "null", '{"a": NaN}', "[" * 100_000, "9" * 5000, "\xff"])
def test_manifests_that_are_no_manifest(folder, text):
    (folder / "manifest.json").write_bytes(text.encode("latin-1"))
    refused(folder, r"manifest\.json")


def test_a_field_less(folder, forge):
    forge(folder, lambda body: body.pop("data_digest"))
    refused(folder, "data_digest")


def test_the_same_manifest_in_other_words(folder):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_bytes())))
    refused(folder, "does not match its own checksum")


def test_without_faiss_a_bundle_is_refused(folder, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    refused(folder, r"install recgpt-recall\[cpu\]")
