"""Golden queries: histories with the vectors and the exact hits they must give, replayed before a bundle may serve."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.base import ItemIndex
from index.bundle.manifest import BundleRefused, Manifest
from index.bundle.tensors import read_arrays, save_arrays
from index.evaluate import Probes
from index.exact import ExactIndex
from model.records import History, QueryVectors

Encode = Callable[[Sequence[History]], QueryVectors]

MAX_DRIFT = 1e-3  # relative to the largest vector component; rounding between devices stays far below
_DTYPES = {"offsets": "<i8", "items": "<i8", "users": "<i8", "vectors": "<f4", "expected": "<i8"}


@dataclass(frozen=True, eq=False)
class GoldenQueries:
    """G histories, their query vectors and the exact hits of each vector."""

    histories: tuple[History, ...]  # G
    vectors: NDArray[np.float32]  # (G, Q, D)
    expected: NDArray[np.int64]  # (G * Q, K) item rows, 0 = fewer than K items exist

    @classmethod
    def of(
        cls, histories: Sequence[History], queries: QueryVectors, items: NDArray[np.float32], limit: int = 50
    ) -> "GoldenQueries":
        """Golden queries with their hits computed by brute force. items: (N, D)."""
        vectors = np.ascontiguousarray(queries.vectors, dtype=np.float32)
        expected = ExactIndex(items).search(vectors.reshape(-1, vectors.shape[2]), limit).rows
        return cls(tuple(histories), vectors, expected)

    @property
    def flat_vectors(self) -> NDArray[np.float32]:
        return self.vectors.reshape(-1, self.vectors.shape[2])  # (G * Q, D)

    def save(self, path: Path) -> None:
        lengths = [len(history.items) for history in self.histories]
        arrays: dict[str, NDArray[Any]] = {
            "offsets": np.cumsum([0, *lengths], dtype=np.int64),
            "items": np.array([row for history in self.histories for row in history.items], dtype=np.int64),
            "users": np.array([history.user for history in self.histories], dtype=np.int64),
            "vectors": self.vectors,
            "expected": self.expected,
        }
        save_arrays(path, arrays)

    @classmethod
    def parse(cls, data: bytes, manifest: Manifest) -> "GoldenQueries":
        """The golden queries in the bytes of their file.

        Raises ValueError for shapes and rows that do not fit each other and the manifest.
        """
        arrays = read_arrays(data, _DTYPES, manifest.format_version)
        offsets, items, users = arrays["offsets"], arrays["items"], arrays["users"]
        vectors, expected = arrays["vectors"], arrays["expected"]
        if vectors.shape != (len(users), manifest.num_queries, manifest.dim) or not len(users):
            raise BundleRefused(f"the golden vectors have shape {vectors.shape}")
        if expected.ndim != 2 or len(expected) != len(users) * manifest.num_queries or not np.isfinite(vectors).all():
            raise BundleRefused("the golden vectors are not finite or do not fit their hits")
        if users.ndim != 1 or users.min() < 0 or len(offsets) != len(users) + 1 or not _fits(offsets, items):
            raise BundleRefused("the golden histories are torn")
        if not (_within(items, 1, manifest.num_items) and _within(expected, 0, manifest.num_items)):
            raise BundleRefused("the golden queries name items that do not exist")
        rows = (tuple(items[start:end].tolist()) for start, end in pairwise(offsets.tolist()))
        return cls(tuple(map(History, rows, users.tolist())), vectors, expected)

    def check_index(self, index: ItemIndex, floor: float) -> None:
        """Raises BundleRefused when the index finds less than `floor` of the expected hits."""
        recall = Probes(self.flat_vectors, self.expected).recall(index)
        # written so that NaN is refused too
        if not recall >= floor:
            raise BundleRefused(f"the index finds {recall:.3f} of the golden hits; the floor is {floor}")

    def check_encoder(self, encode: Encode) -> None:
        """Raises BundleRefused when `encode` does not give the stored vectors for the stored histories."""
        vectors = encode(self.histories).vectors  # (G, Q, D)
        if vectors.shape != self.vectors.shape:
            raise BundleRefused(f"the encoder gives vectors {vectors.shape}, the golden ones are {self.vectors.shape}")
        # relative to the largest component: vectors have no unit, and systems differ in their length
        drift = float(np.abs(vectors - self.vectors).max() / np.abs(self.vectors).max())
        if not drift <= MAX_DRIFT:
            raise BundleRefused(f"the encoder is {drift:.2g} off the golden vectors; {MAX_DRIFT} is allowed")


def _fits(offsets: NDArray[np.int64], items: NDArray[np.int64]) -> bool:
    one_row = offsets.ndim == items.ndim == 1
    return one_row and offsets[0] == 0 and offsets[-1] == len(items) and bool((np.diff(offsets) >= 0).all())


def _within(rows: NDArray[np.int64], low: int, high: int) -> bool:
    return not rows.size or bool(rows.min() >= low and rows.max() <= high)
