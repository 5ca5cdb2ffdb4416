"""Search of a few queries without reading all item vectors: those in 8 bits a number tell which may be among the best.

A query alone waits for its items to come from memory. A quarter of the bytes gives each score up to a margin that is
known; items that cannot reach the list within it are left out, and the others, two or three for each place of the list,
are scored from their vectors. Rows and scores are those of the product, to the last bit.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from model.native.loops import LOADED, Loops

BLOCK, MOST_QUERIES = 16, 4
MAX_DIM = 256  # 32 bits hold the sums of more, but the margins have been tried up to here
PART = 1 << 12  # items that are rounded at once, whole blocks
SMALL, LARGE = 1e-15, 1e15  # numbers whose products with those of a query keep their digits
Vectors = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Sieve:
    """Item vectors, the same in 8 bits, and the margin of each."""

    loops: Loops
    vectors: Vectors  # (N, D)
    codes: NDArray[np.int8]  # (blocks, pairs of dimensions, 16 items and two dimensions)
    scales: Vectors  # (blocks * 16,) of an item's codes
    margins: Vectors  # (blocks * 16,) of a score, for a query of length 1

    @classmethod
    def of(cls, vectors: Vectors, product: Callable[[Vectors], Vectors]) -> "Sieve | None":
        """None where scores one by one are not those of the product to the last bit, or there is no loop for it.

        product: scores (Q, N) of queries (Q, D).
        """
        loops = LOADED.loops
        if loops is None or not loops.CAN_SIFT or vectors.shape[1] > MAX_DIM:
            return None
        largest = np.abs(vectors).max(1)
        # an item is nothing, or its numbers keep their digits
        if not ((largest == 0) | (largest > SMALL) & (largest < LARGE)).all():
            return None
        probes = np.random.default_rng(0).normal(size=(MOST_QUERIES, vectors.shape[1])).astype(np.float32)
        own = np.empty(len(vectors), dtype=np.float32)
        for probe, expected in zip(probes, product(probes), strict=True):
            loops.exact_scores(vectors, probe, own)
            if not np.array_equal(own, expected):
                return None
        return cls(loops, vectors, *_rounded(vectors))

    def search(
        self, queries: Vectors, limit: int, excluded: tuple[NDArray[np.int64], NDArray[np.int64]]
    ) -> tuple[NDArray[np.int64], Vectors] | None:
        """(Q, K) rows and scores, best first, ties in row order; None where a product is faster.

        queries: up to `MOST_QUERIES`, C-contiguous. excluded: pairs of a query and a row.
        """
        rows, scores = np.empty((len(queries), limit), np.int64), np.empty((len(queries), limit), np.float32)
        sifted = self.codes, self.scales, self.margins, self.vectors
        return (rows, scores) if self.loops.search_sifted(sifted, queries, *excluded, rows, scores) else None


def _rounded(vectors: Vectors) -> tuple[NDArray[np.int8], Vectors, Vectors]:
    """(codes, scales, margins) as a Sieve has them."""
    parts = [_rounded_part(vectors[start : start + PART]) for start in range(0, len(vectors), PART)]
    codes, scales, margins = (np.concatenate(column) for column in zip(*parts, strict=True))
    return codes, scales, margins


def _rounded_part(vectors: Vectors) -> tuple[NDArray[np.int8], Vectors, Vectors]:
    """The same of a few vectors, whose copies in double precision are small."""
    num_items, dim = vectors.shape
    num_blocks, num_pairs = -(-num_items // BLOCK), -(-dim // 2)
    whole = np.zeros((num_blocks * BLOCK, num_pairs * 2), dtype=np.float32)
    whole[:num_items, :dim] = vectors
    scales = np.abs(whole).max(1) / np.float32(127)
    # the scale of the smallest numbers is rounded itself
    codes = np.rint(whole / np.where(scales > 0, scales, 1)[:, None]).clip(-127, 127).astype(np.int8)
    rounded = codes * scales[:, None].astype(np.float64)
    lost, length = np.linalg.norm(whole - rounded, axis=1), np.linalg.norm(whole.astype(np.float64), axis=1)
    # single precision rounds each of D steps of a score, and a query's largest number is known to 2^-16
    rounding = 4 * (dim + 8) * 2.0**-24 + np.sqrt(dim) * 2.0**-15
    margins = (1 + 1e-5) * (lost + rounding * (length + lost))
    own = codes.reshape(num_blocks, BLOCK, num_pairs, 2).swapaxes(1, 2)
    return np.ascontiguousarray(own).reshape(num_blocks, num_pairs, -1), scales, margins.astype(np.float32)
