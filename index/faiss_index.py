"""FAISS behind the index contract: flat, IVF, HNSW, PQ, SQ from a factory string, searched by inner product.

    FaissIndex.build(vectors, "IVF256,Flat").search(queries, 100)

FAISS is imported on first use. FAISS ids are rows - 1, so its "nothing found" (-1) becomes row 0 by itself.
Factory strings: https://github.com/facebookresearch/faiss/wiki/The-index-factory. Two of its transforms change what is
searched: PCA subtracts the mean and L2norm makes it the cosine; rotations (OPQ, RR) keep inner products.
"""

import importlib
import re
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.base import Exclusions, Hits
from index.checks import check_allowed, check_items, check_search, empty_hits, first_permitted

MAX_TRAIN_ROWS = 262_144
TRAIN_ROWS_A_LIST = 64  # FAISS wants 39 or more a k-means centre
LIGHTER, MIN_PROBE, MIN_EF_SEARCH = 8, 8, 32  # of a search for a single item
OVERSEARCH, MAX_DEPTH = 2, 2048  # of kinds without selectors: hits looked at for each one hoped for, and at most
_PARSING = Lock()  # FAISS keeps its limit on sizes in one global


def load_faiss() -> Any:
    """The faiss module.

    Raises ImportError with the cure when it is not installed.
    """
    try:
        return importlib.import_module("faiss")
    except ImportError as error:
        raise ImportError("this index needs FAISS: install recgpt-recall[cpu]") from error


@dataclass(frozen=True, slots=True)
class SearchEffort:
    """The effort of an approximate search: higher finds more and takes longer; a kind uses the fields it has."""

    nprobe: int = 32  # IVF: lists visited a query
    ef_search: int = 128  # HNSW: candidates kept while walking
    refine: int = 4  # specs ending in RFlat: candidates scored again for each hit asked for

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name} is {value!r}; it must be a whole number of at least 1")

    def for_single_item(self) -> "SearchEffort":
        """The effort that finds the best item of a query: an eighth, and never more than this one."""
        nprobe, ef_search = max(self.nprobe // LIGHTER, MIN_PROBE), max(self.ef_search // LIGHTER, MIN_EF_SEARCH)
        return replace(self, nprobe=min(nprobe, self.nprobe), ef_search=min(ef_search, self.ef_search))


DEFAULT_EFFORT = SearchEffort()


@dataclass(frozen=True, eq=False)
class FaissIndex:
    """An `ItemIndex` over a native FAISS index. Scores of quantised kinds (PQ, SQ) are approximations."""

    spec: str
    effort: SearchEffort
    native: Any  # faiss.Index, never changed after building
    parameters: Any  # faiss.SearchParameters or None; handed to each call, so nothing on the index is ever set
    guard: AbstractContextManager[object] = field(default_factory=nullcontext)  # a lock on a GPU

    @classmethod
    def build(
        cls, vectors: NDArray[np.float32], spec: str, effort: SearchEffort = DEFAULT_EFFORT, seed: int = 0
    ) -> "FaissIndex":
        """Trains on a sample drawn with `seed`, then adds every vector. HNSW from several threads may vary a little.

        Raises ValueError for a spec that FAISS cannot build over these vectors; ImportError without FAISS.
        """
        check_items(vectors)
        faiss = load_faiss()
        try:
            native = faiss.index_factory(vectors.shape[1], spec, faiss.METRIC_INNER_PRODUCT)
            native.train(_sample(native, vectors, seed))
            native.add(np.ascontiguousarray(vectors))
        except RuntimeError as error:
            raise ValueError(f"FAISS cannot build {spec!r} over {vectors.shape} vectors: {_reason(error)}") from error
        return cls(spec, effort, native, _parameters(native, effort))

    @classmethod
    def parse(cls, data: NDArray[np.uint8], spec: str, effort: SearchEffort, shape: tuple[int, int]) -> "FaissIndex":
        """An index from the bytes of its file; never maps a file. Check the bytes' digest first: FAISS trusts them.

        shape: the (N, D) it must have. Raises ValueError when FAISS cannot read it, or for another shape or metric.
        """
        native = _deserialize(data)
        faiss = load_faiss()
        if (native.ntotal, native.d) != shape:
            raise ValueError(
                f"the index holds {native.ntotal} vectors of width {native.d}, not {shape[0]} of {shape[1]}"
            )
        if native.metric_type != faiss.METRIC_INNER_PRODUCT:
            raise ValueError(f"the index has metric {native.metric_type}, not the inner product")
        return cls(spec, effort, native, _parameters(native, effort))

    def with_effort(self, effort: SearchEffort) -> "FaissIndex":
        """The same index, looked through harder or less hard."""
        return replace(self, effort=effort, parameters=_parameters(self.native, effort))

    def save(self, path: Path) -> None:
        load_faiss().write_index(self._on_cpu(), str(path))

    def to_gpu(self, device: int = 0) -> "FaissIndex":
        """A copy on a GPU where FAISS sees one, otherwise this index.

        Written to FAISS's documentation; no test runs it. A GPU index answers one call at a time, with limits up to
        2048. Raises ValueError for a kind that has no GPU form.
        """
        faiss = load_faiss()
        if faiss.get_num_gpus() == 0:
            return self
        try:
            native = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), device, self.native)
        except RuntimeError as error:
            raise ValueError(f"FAISS cannot put {self.spec!r} on a GPU: {_reason(error)}") from error
        # the scratch memory of a GPU belongs to the index, so calls must not overlap
        return replace(self, native=native, guard=Lock())

    @property
    def num_items(self) -> int:
        return int(self.native.ntotal)

    @property
    def dim(self) -> int:
        return int(self.native.d)

    @property
    def num_bytes(self) -> int:
        """Size of its file, counted without writing it; close to what it holds in memory."""
        faiss, sizes = load_faiss(), list[int]()
        faiss.write_index(self._on_cpu(), faiss.PyCallbackIOWriter(lambda block: sizes.append(len(block))))
        return sum(sizes)

    def search(
        self,
        queries: NDArray[np.float32],
        limit: int,
        excluded: Exclusions | None = None,
        allowed: NDArray[np.bool_] | None = None,
    ) -> Hits:
        """Searches as the contract says, `allowed` inside FAISS where the kind takes a selector (flat, IVF, HNSW, SQ).

        Other kinds (PQ, fast scan, NSG, any on a GPU) look OVERSEARCH x limit x N / allowed deep, at most MAX_DEPTH,
        and drop the rest: where few rows are allowed a query may get fewer hits than there are.
        """
        check_search(queries, limit, self.dim)
        check_allowed(allowed, self.num_items)
        # FAISS has one selector a call, not one a query: look deeper by what may fall out
        deeper = limit + (excluded.most if excluded is not None else 0)
        if allowed is not None and not allowed.all():
            return first_permitted(self._search_allowed(queries, deeper, allowed), limit, excluded, allowed)
        hits = self._search(queries, deeper, self.parameters)
        return hits if deeper == limit else first_permitted(hits, limit, excluded)

    def _search_allowed(self, queries: NDArray[np.float32], limit: int, allowed: NDArray[np.bool_]) -> Hits:
        """Hits (Q, K), K >= limit, of the allowed rows; with others among them where FAISS cannot leave those out."""
        share = np.count_nonzero(allowed) / self.num_items
        if not share:
            return empty_hits(len(queries), limit)
        if _takes_selector(self.native):
            selector = load_faiss().IDSelectorBitmap(np.packbits(allowed, bitorder="little"))
            return self._search(queries, limit, _parameters(self.native, self.effort, selector))
        deep = min(int(OVERSEARCH * limit / share), MAX_DEPTH)
        return self._search(queries, max(limit, deep), self.parameters)

    def _search(self, queries: NDArray[np.float32], limit: int, parameters: Any) -> Hits:
        hits = empty_hits(len(queries), limit)
        real = min(limit, self.num_items)
        with self.guard:
            scores, ids = self.native.search(queries, real, params=parameters)  # (Q, K) both
        hits.rows[:, :real] = ids + 1
        # FAISS marks what it did not find with its lowest float, the contract with -inf
        hits.scores[:, :real] = np.where(ids < 0, -np.inf, scores)
        return hits

    def _on_cpu(self) -> Any:
        on_gpu = not isinstance(self.guard, nullcontext)
        return load_faiss().index_gpu_to_cpu(self.native) if on_gpu else self.native


def _sample(native: Any, vectors: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    ivf = load_faiss().try_extract_index_ivf(native)
    if ivf is not None:
        ivf.cp.seed = seed
    # k-means gains nothing from more rows, and training is most of the building time
    limit = max(MAX_TRAIN_ROWS, TRAIN_ROWS_A_LIST * (ivf.nlist if ivf is not None else 0))
    if len(vectors) <= limit:
        return np.ascontiguousarray(vectors)
    chosen = np.random.default_rng(seed).choice(len(vectors), limit, replace=False)
    return vectors[np.sort(chosen)]


def _parameters(native: Any, effort: SearchEffort, selector: Any = None) -> Any:
    """FAISS's parameters of a call; selector: of the ids that may be found, None = of all."""
    faiss = load_faiss()
    # wrappers hand their own kind of parameters on to what they wrap
    index = faiss.downcast_index(native)
    if isinstance(index, faiss.IndexRefine):
        base = _parameters(index.base_index, effort, selector)
        return faiss.IndexRefineSearchParameters(k_factor=effort.refine, base_index_params=base)
    if isinstance(index, faiss.IndexPreTransform):
        return faiss.SearchParametersPreTransform(index_params=_parameters(index.index, effort, selector))
    if isinstance(index, faiss.IndexIVF):
        return faiss.SearchParametersIVF(nprobe=effort.nprobe, sel=selector)
    if isinstance(index, faiss.IndexHNSW):
        return faiss.SearchParametersHNSW(efSearch=effort.ef_search, sel=selector)
    return faiss.SearchParameters(sel=selector) if selector is not None else None


def _takes_selector(native: Any) -> bool:
    """Tells the kinds that leave items out while they search from those that refuse a selector."""
    faiss = load_faiss()
    index = faiss.downcast_index(native)
    if isinstance(index, faiss.IndexRefine):
        return _takes_selector(index.base_index)
    if isinstance(index, faiss.IndexPreTransform):
        return _takes_selector(index.index)
    return isinstance(index, faiss.IndexIVF | faiss.IndexHNSW | faiss.IndexFlat | faiss.IndexScalarQuantizer)


def _deserialize(data: NDArray[np.uint8]) -> Any:
    faiss = load_faiss()
    has_limit = hasattr(faiss, "set_deserialization_vector_byte_limit")  # FAISS 1.15
    with _PARSING:
        if has_limit:
            # no part of an index is larger than its file: a claim of 2^62 vectors must not reach an allocation
            faiss.set_deserialization_vector_byte_limit(len(data) + 1)
        try:
            native = faiss.deserialize_index(data)
        except RuntimeError as error:
            raise ValueError(f"FAISS cannot read the index: {_reason(error)}") from error
    # an on-disk list names a file of its own, which no digest covers
    ivf = faiss.try_extract_index_ivf(native)
    if ivf is not None and not isinstance(faiss.downcast_InvertedLists(ivf.invlists), faiss.ArrayInvertedLists):
        raise ValueError("the index keeps its lists in another file")
    return native


def _reason(error: RuntimeError) -> str:
    """FAISS's own words without the C++ signature and source line before them."""
    return re.split(r"\.(?:cpp|h|cu):\d+: ", str(error))[-1].splitlines()[0]
