"""Rows that came after an index was built, in an index of their own that searches them as that one does."""

import numpy as np
from numpy.typing import NDArray

from index.base import ItemIndex, OuterIndex
from index.exact import QUERIES_PER_PASS, ExactIndex
from index.faiss_index import FaissIndex, load_faiss


def index_like(index: ItemIndex, vectors: NDArray[np.float32]) -> ItemIndex:
    """An index over vectors (F, D), which stay as they are: lists around another's centres, else an exact one."""
    return lists_like(index, vectors) or exact_index(vectors)


def exact_index(vectors: NDArray[np.float32]) -> ExactIndex:
    """An exact index in this process's memory that has made and proven what its first searches would wait for."""
    index = ExactIndex(vectors)
    for num_queries in (1, QUERIES_PER_PASS["cpu"]):
        index.search(np.ones((num_queries, index.dim), dtype=np.float32), 1)
    return index


def lists_like(index: ItemIndex, vectors: NDArray[np.float32]) -> FaissIndex | None:
    """An index over a copy of vectors (F, D) with the centres and the effort of another, so that nothing is trained.

    A query visits the same part of the space in both. None for kinds without inverted lists in this process's memory.
    """
    while isinstance(index, OuterIndex):
        index = index.inner
    if not isinstance(index, FaissIndex):
        return None
    faiss = load_faiss()
    native = faiss.downcast_index(index.native)
    if not isinstance(native, faiss.IndexIVF):
        return None
    # a copy of the centres: the lists may outlive the index that they were taken from
    centres = faiss.clone_index(native.quantizer)
    lists = faiss.IndexIVFFlat(centres, index.dim, native.nlist, faiss.METRIC_INNER_PRODUCT)
    lists.add(np.ascontiguousarray(vectors))
    return FaissIndex(f"IVF{native.nlist},Flat", index.effort, lists, None).with_effort(index.effort)
