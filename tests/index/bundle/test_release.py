"""Writing a bundle: round trip, digest, and the old one standing whatever happens to the new."""

import os
from dataclasses import replace
from time import perf_counter

import numpy as np
import pytest
import torch

from index.bundle import bundle as release
from index.bundle.bundle import BundleRefused, open_bundle, write_bundle
from index.bundle.golden import GoldenQueries
from index.factory import build_index
from model.folders.files import FolderRefused
from model.records import History, QueryVectors


def broken(contents):
    vectors = contents.vectors.copy()
    vectors[7] = np.nan
    return replace(contents, vectors=vectors)


def leftovers(tmp_path):
    return [path.name for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("spec", ["exact", "Flat", "IVF8,Flat", "HNSW16"])
def test_round_trip(contents, queries, tmp_path, spec):
    contents = replace(contents, index=build_index(contents.vectors, spec))
    manifest = write_bundle(tmp_path / "bundle", contents)
    bundle = open_bundle(tmp_path / "bundle")
    assert bundle.manifest == manifest
    assert bundle.index.spec == spec
    np.testing.assert_array_equal(bundle.vectors, contents.vectors)
    np.testing.assert_array_equal(bundle.index.search(queries, 9).rows, contents.index.search(queries, 9).rows)


def test_a_bundle_of_format_1_opens(folder_1, exact_contents, queries):
    bundle = open_bundle(folder_1)
    assert bundle.manifest.format_version == 1
    np.testing.assert_array_equal(bundle.vectors, exact_contents.vectors)
    np.testing.assert_array_equal(bundle.golden.expected, exact_contents.golden.expected)
    np.testing.assert_array_equal(bundle.index.search(queries, 9).rows, exact_contents.index.search(queries, 9).rows)


def test_golden_queries_come_back(folder, contents):
    golden = open_bundle(folder).golden
    assert golden.histories == contents.golden.histories
    np.testing.assert_array_equal(golden.vectors, contents.golden.vectors)
    np.testing.assert_array_equal(golden.expected, contents.golden.expected)


def test_the_checkpoint_is_copied_whole(folder):
    checkpoint = open_bundle(folder).checkpoint_path
    assert (checkpoint / "weights.safetensors").stat().st_size == 2048
    assert (checkpoint / "extra" / "config.json").read_text() == "{}"


def test_vectors_are_read_only(folder):
    with pytest.raises(ValueError, match="read-only"):
        open_bundle(folder).vectors[0] = 0


@pytest.mark.parametrize("spec", ["exact", "HNSW16"])
def test_a_bundle_moves_into_the_memory_of_the_same_table(contents, tmp_path, spec):
    write_bundle(tmp_path / "bundle", replace(contents, index=build_index(contents.vectors, spec)))
    bundle, table = open_bundle(tmp_path / "bundle"), torch.from_numpy(contents.vectors.copy())
    moved = bundle.over(table)
    assert np.shares_memory(moved.vectors, table.numpy())
    assert (moved.index is moved.exact) == (spec == "exact")
    assert bundle.over(table + 1).exact is bundle.exact


def test_whoever_may_read_the_manifest_may_read_the_rest(folder):
    assert len({path.stat().st_mode for path in folder.rglob("*") if path.is_file()}) == 1


def test_digest_leaves_the_time_out(contents, tmp_path):
    first = write_bundle(tmp_path / "a", replace(contents, created="2026-01-01T00:00:00+00:00"))
    second = write_bundle(tmp_path / "b", replace(contents, created="2026-01-02T00:00:00+00:00"))
    assert first != second
    assert first.digest == second.digest
    assert open_bundle(tmp_path / "a").short_digest == first.digest[:16]


def test_digest_knows_the_content(contents, tmp_path):
    first = write_bundle(tmp_path / "a", contents)
    second = write_bundle(tmp_path / "b", replace(contents, metrics={"hit_rate_50": 0.26}))
    assert first.digest != second.digest


def test_a_new_bundle_replaces_the_old(folder, contents, tmp_path):
    write_bundle(folder, replace(contents, arm_kind="comirec"))
    assert open_bundle(folder).manifest.arm_kind == "comirec"
    assert not leftovers(tmp_path)


def test_the_old_bundle_survives_refused_contents(folder, contents, tmp_path):
    with pytest.raises(BundleRefused, match="row 8 is not finite"):
        write_bundle(folder, broken(contents))
    assert open_bundle(folder).manifest.arm_kind == "recgpt"
    assert not leftovers(tmp_path)


@pytest.mark.parametrize("step", ["_write_parts", "_describe", "sync_tree", "open_bundle", "replace_folder"])
def test_the_old_bundle_survives_a_failure_at_any_step(folder, contents, tmp_path, monkeypatch, step):
    def fail(*_):
        raise OSError("no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(release, step, fail)
        with pytest.raises(OSError, match="no space"):
            write_bundle(folder, replace(contents, arm_kind="comirec"))
    assert open_bundle(folder).manifest.arm_kind == "recgpt"
    assert not leftovers(tmp_path)


def test_whoever_opens_it_while_it_is_replaced_gets_the_new_one(folder, contents, monkeypatch):
    read_parts, calls = release._read_parts, []

    def slow(root, manifest):
        calls.append(manifest.arm_kind)
        if len(calls) == 1:
            monkeypatch.setattr(release, "_read_parts", read_parts)
            (contents.checkpoint / "weights.safetensors").write_bytes(b"others")
            write_bundle(folder, replace(contents, arm_kind="comirec"))
        return read_parts(root, manifest)

    monkeypatch.setattr(release, "_read_parts", slow)
    assert open_bundle(folder).manifest.arm_kind == "comirec"


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_only_a_bundle_is_replaced(folder, contents, tmp_path, kind):
    target = tmp_path / "precious"
    {"folder": target.mkdir, "file": target.touch, "link": lambda: target.symlink_to(folder)}[kind]()
    with pytest.raises(ValueError, match="not a bundle"):
        write_bundle(target, contents)
    assert os.path.lexists(target)


@pytest.mark.parametrize(
    "name", ["model.pkl", "weights.pt", "pytorch_model.bin", "MODEL.PT", "net.py", ".hidden", "a b"]
)
def test_code_and_odd_names_do_not_go_in(contents, tmp_path, name):
    (contents.checkpoint / name).write_bytes(b"x")
    with pytest.raises(BundleRefused, match=r"carry code|no place"):
        write_bundle(tmp_path / "bundle", contents)


def test_links_do_not_go_in(contents, tmp_path):
    (contents.checkpoint / "link").symlink_to("/etc/hostname")
    with pytest.raises(FolderRefused, match="is a link"):
        write_bundle(tmp_path / "bundle", contents)


def test_an_index_over_other_vectors_does_not_go_in(contents, tmp_path):
    with pytest.raises(BundleRefused, match="of its own items"):
        write_bundle(tmp_path / "bundle", replace(contents, vectors=contents.vectors[::-1].copy()))


def test_a_poor_index_does_not_go_in(contents, tmp_path):
    poor = build_index(contents.vectors, "PQ8x4")
    with pytest.raises(BundleRefused, match="of the golden hits"):
        write_bundle(tmp_path / "bundle", replace(contents, index=poor))


def test_replay_accepts_the_encoder_and_its_rounding(folder, contents):
    vectors = contents.golden.vectors * np.float32(1 + 1e-5)
    open_bundle(folder).replay(lambda histories: QueryVectors(vectors, np.zeros((len(histories), 0), np.int64)))


@pytest.mark.parametrize("change", [lambda v: v[:, :1], lambda v: v + 0.01, lambda v: v * np.nan, lambda v: v[::-1]])
def test_replay_refuses_another_encoder(folder, contents, change):
    vectors = change(contents.golden.vectors)
    with pytest.raises(BundleRefused, match="the encoder"):
        open_bundle(folder).replay(lambda histories: QueryVectors(vectors, np.zeros((len(histories), 0), np.int64)))


def test_opens_12k_items_in_half_a_second(contents, tmp_path):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(12_000, 64)).astype(np.float32)
    asked = QueryVectors(rng.normal(size=(64, 2, 64)).astype(np.float32), np.zeros((64, 0), np.int64))
    golden = GoldenQueries.of([History((1, 2))] * 64, asked, vectors)
    index = build_index(vectors, "IVF32,Flat")
    write_bundle(tmp_path / "big", replace(contents, vectors=vectors, index=index, golden=golden))
    start = perf_counter()
    open_bundle(tmp_path / "big")
    assert perf_counter() - start < 0.5
