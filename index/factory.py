"""One door to every index kind: a spec in, an index out."""

import numpy as np
from numpy.typing import NDArray

from index.base import ItemIndex
from index.exact import ExactIndex
from index.faiss_index import DEFAULT_EFFORT, FaissIndex, SearchEffort


def build_index(
    vectors: NDArray[np.float32],
    spec: str = ExactIndex.spec,
    effort: SearchEffort = DEFAULT_EFFORT,
    *,
    seed: int = 0,
    device: str = "cpu",
) -> ItemIndex:
    """An index over rows 1..N: "exact", or anything that FAISS's factory knows.

    Raises ValueError for vectors that are not (N, D) float32 or a spec that cannot be built; ImportError without FAISS.
    """
    if spec == ExactIndex.spec:
        return ExactIndex(vectors, device)
    return place(FaissIndex.build(vectors, spec, effort, seed), device)


def list_count(num_items: int) -> int:
    """Number of lists of an IVF index over so many items: the power of two nearest to 4 sqrt(N)."""
    # the lower end of what FAISS's guidelines advise, 4 to 16 sqrt(N)
    return int(2 ** round(np.log2(4 * num_items**0.5)))


def place(index: FaissIndex, device: str) -> FaissIndex:
    """The index on "cpu", "cuda" or "cuda:1"; stays on the CPU where FAISS has no GPU."""
    if not device.startswith("cuda"):
        return index
    return index.to_gpu(int(device.partition(":")[2] or 0))
