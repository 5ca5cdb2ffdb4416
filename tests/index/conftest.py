"""Clustered items, queries near them, a small whole bundle, and a forger who signs what he changed."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file

from index.bundle.bundle import BundleContents, write_bundle
from index.bundle.golden import GoldenQueries
from index.factory import build_index
from index.faiss_index import load_faiss
from model.records import History, QueryVectors

N, D, Q, G = 900, 16, 2, 12


def clustered(num_rows: int, seed: int) -> NDArray[np.float32]:
    """Points around 30 centres that are the same for every seed."""
    centres = np.random.default_rng(0).normal(size=(30, D))
    rng = np.random.default_rng(seed)
    return (centres[rng.integers(30, size=num_rows)] + 0.4 * rng.normal(size=(num_rows, D))).astype(np.float32)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """k-means over so few rows waits for its threads more than it works; on a shared machine for seconds."""
    load_faiss().omp_set_num_threads(1)
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def items() -> NDArray[np.float32]:
    return clustered(N, seed=1)


@pytest.fixture(scope="session")
def queries() -> NDArray[np.float32]:
    return clustered(100, seed=2)


@pytest.fixture
def contents(items, queries, tmp_path) -> BundleContents:
    checkpoint = tmp_path / "checkpoint"
    (checkpoint / "extra").mkdir(parents=True)
    (checkpoint / "weights.safetensors").write_bytes(bytes(range(256)) * 8)
    (checkpoint / "extra" / "config.json").write_text("{}")
    histories = [History(tuple(range(1, g + 1)), user=g) for g in range(G)]
    vectors = QueryVectors(queries[: G * Q].reshape(G, Q, D), np.zeros((G, 0), dtype=np.int64))
    return BundleContents(
        arm_kind="recgpt",
        checkpoint=checkpoint,
        vectors=items.copy(),
        index=build_index(items, "HNSW16"),
        golden=GoldenQueries.of(histories, vectors, items, limit=20),
        data_digest="d" * 16,
        config_digest="c" * 16,
        code_version="0.1.0",
        metrics={"hit_rate_50": 0.25},
    )


@pytest.fixture
def exact_contents(contents) -> BundleContents:
    return replace(contents, index=build_index(contents.vectors))


@pytest.fixture
def folder(contents, tmp_path) -> Path:
    write_bundle(tmp_path / "bundle", contents)
    return tmp_path / "bundle"


@pytest.fixture
def exact_folder(exact_contents, tmp_path) -> Path:
    write_bundle(tmp_path / "bundle", exact_contents)
    return tmp_path / "bundle"


def sign(folder: Path, change: Callable[[dict[str, Any]], object] = lambda body: None) -> None:
    """Records every listed file anew, applies `change`, and writes a manifest whose checksum is right."""
    path = folder / "manifest.json"
    body = json.loads(path.read_bytes())
    del body["checksum"]
    for name in body["files"]:
        data = (folder / name).read_bytes()
        body["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "num_bytes": len(data)}
    change(body)
    canonical = json.dumps(body, indent=1, sort_keys=True) + "\n"
    body["checksum"] = hashlib.sha256(canonical.encode()).hexdigest()
    path.write_text(json.dumps(body, indent=1, sort_keys=True) + "\n")


def to_format_1(folder: Path) -> None:
    """Rewrites a bundle as earlier versions wrote it: NumPy files in place of safetensors."""
    np.save(folder / "vectors.npy", load_file(folder / "vectors.safetensors")["vectors"])
    np.savez(folder / "golden.npz", **load_file(folder / "golden.safetensors"))
    for part in ("vectors.safetensors", "golden.safetensors"):
        (folder / part).unlink()
    body = json.loads((folder / "manifest.json").read_bytes())
    names = {"vectors.safetensors": "vectors.npy", "golden.safetensors": "golden.npz"}
    body["files"] = {names.get(name, name): record for name, record in body["files"].items()}
    (folder / "manifest.json").write_text(json.dumps(body))
    sign(folder, lambda body: body.update(format_version=1))


@pytest.fixture
def folder_1(exact_folder) -> Path:
    to_format_1(exact_folder)
    return exact_folder


@pytest.fixture
def forge() -> Callable[..., None]:
    return sign
