"""Filtered search of inverted lists: those rows of an index's lists that pass, copied into lists of their own.

Skipping rows inside the index's lists costs as much as scoring them, and a fixed number of lists finds less the fewer
rows pass, next to nothing where those lie together far from the query (a language, a kind of video). A copy in 8 bits a
number holds nothing else and takes a quarter of the memory; its hits are scored again by the vectors themselves.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from index.base import Exclusions, Hits
from index.checks import empty_hits, first_permitted
from index.exact import ExactIndex
from index.faiss_index import FaissIndex, load_faiss

EVEN = 0.98  # share of the lists that hold passing rows from which on a filter has nothing to do with where rows lie
THIN = 0.45  # power of twice the passing share, which fewer rows are visited for
NEAR, NEAR_THIN = 0.75, 0.3  # share of that for a query near rows that lie together, where they are thick
FAR, FAR_THIN, FAR_POWER = 2.15, 5.5, 0.6  # lists visited for a query far from what passes: a power of their number
EASY_EFFORT = 2.0  # lists visited without a filter, for the root of their number, up to which FAR is enough
SCORED_AGAIN = 1.3  # hits scored again for each wanted: 8 bits swap neighbours, they lose none
COPIED = 65_536  # rows that are copied at once
CALL_US, LIST_US, ROW_US = 80.0, 0.4, 0.011  # of a search, of a list that it visits, of a row there


@dataclass(frozen=True, eq=False)
class ListsOfRows:
    """The lists of an index: their centres and, for each row, the one that it lies in."""

    index: FaissIndex  # an IVF index, not wrapped in another
    exact: ExactIndex  # of the same rows
    centres: NDArray[np.float32]  # (L, D)
    list_of_row: NDArray[np.int32]  # (N,)

    @cached_property
    def sizes(self) -> NDArray[np.int64]:
        """(L,) rows in each list."""
        return np.bincount(self.list_of_row, minlength=len(self.centres))

    @property
    def num_visited(self) -> float:
        """Rows that a query looks at without a filter, on the average."""
        return self.index.effort.nprobe * len(self.list_of_row) / len(self.centres)

    @cached_property
    def ranges(self) -> NDArray[np.float32]:
        """(2, D) the least and the largest number of any row: a copy cuts off what lies beyond."""
        vectors = self.exact.vectors
        return np.stack([vectors.min(0), vectors.max(0)])

    @classmethod
    def of(cls, index: FaissIndex, exact: ExactIndex) -> "ListsOfRows | None":
        """None for kinds of index that have no such lists."""
        faiss = load_faiss()
        native = faiss.downcast_index(index.native)
        if not isinstance(native, faiss.IndexIVF):
            return None
        lists = native.invlists
        owner = np.zeros(index.num_items, dtype=np.int32)
        for number in range(native.nlist):
            if size := lists.list_size(number):
                owner[faiss.rev_swig_ptr(lists.get_ids(number), size)] = number
        return cls(index, exact, native.quantizer.reconstruct_n(0, native.nlist), owner)

    def plan(self, places: NDArray[np.int64]) -> "ListPlan":
        """The lists to visit where the rows at `places` (row r at r - 1) pass; C >= 1 of them.

        A query whose nearest list holds passing rows visits as many rows as it would without a filter, fewer where
        those that pass are thin: the nearest lists hold what is wanted, the more so where rows lie together. Any other
        is about as near to many lists. The constants were set on the vectors of benchmarks/filters.py.
        """
        counts = np.bincount(self.list_of_row[places], minlength=len(self.centres))
        is_used = counts > 0
        num_used = int(np.count_nonzero(is_used))
        thickness = len(places) / num_used
        share = len(places) / float(self.sizes[is_used].sum())
        usual = self.num_visited * min(1.0, 2 * share) ** THIN / thickness
        far = usual
        if is_used.mean() < EVEN:
            usual *= min(1.0, NEAR / (2 * share) ** NEAR_THIN)
            effort = max(1.0, self.index.effort.nprobe / (EASY_EFFORT * len(self.centres) ** 0.5))
            far = max(usual, effort * (FAR + FAR_THIN / thickness**0.5) * num_used**FAR_POWER)
        return ListPlan(is_used, thickness, min(int(usual) + 1, num_used), min(int(far) + 1, num_used))

    def passing(self, places: NDArray[np.int64], plan: "ListPlan") -> "PassingLists":
        """Copies the rows at `places`."""
        faiss = load_faiss()
        used, own = np.unique(self.list_of_row[places], return_inverse=True)
        quantizer = faiss.IndexFlatIP(self.index.dim)
        quantizer.add(self.centres[used])
        bits = faiss.ScalarQuantizer.QT_8bit
        # False: numbers are coded as they are, not as differences from their list's centre
        lists = faiss.IndexIVFScalarQuantizer(
            quantizer, self.index.dim, len(used), bits, faiss.METRIC_INNER_PRODUCT, False
        )
        # the centres are there already: this tells the range of each number
        lists.train(self.ranges)
        for start in range(0, len(places), COPIED):
            part = slice(start, start + COPIED)
            # all of them C-contiguous, and held until FAISS has read them
            arrays = self.exact.gather(places[part] + 1), places[part], own[part].astype(np.int64)
            lists.add_core(len(arrays[1]), *map(faiss.swig_ptr, arrays))
        return PassingLists(lists, self.exact, self.centres, plan)


@dataclass(frozen=True, eq=False)
class ListPlan:
    """The effort of a search of lists of passing rows."""

    is_used: NDArray[np.bool_]  # (L,) lists of the index that hold rows which pass
    thickness: float  # passing rows in each of those
    num_near: int  # lists that a query visits whose nearest list holds some
    num_far: int  # that any other visits

    @property
    def is_even(self) -> bool:
        """True when passing rows lie everywhere: then the nearest lists are as good for any query."""
        return bool(self.is_used.mean() >= EVEN)

    @property
    def cost_us(self) -> float:
        """Microseconds of the search of a query, about: it decides between two right answers."""
        return CALL_US + (LIST_US + ROW_US * self.thickness) * (self.num_near + self.num_far) / 2


@dataclass(frozen=True, eq=False)
class PassingLists:
    """The rows that pass one filter, in lists of their own. Thread-safe."""

    native: Any  # faiss.IndexIVF, never changed after building
    exact: ExactIndex  # of all rows
    centres: NDArray[np.float32]  # (L, D) of the index's lists
    plan: ListPlan

    @property
    def num_bytes(self) -> int:
        ids, centres = 8, 4 * self.native.d
        return int(self.native.ntotal * (self.native.code_size + ids) + self.native.nlist * centres)

    def search(self, queries: NDArray[np.float32], limit: int, excluded: Exclusions | None) -> Hits:
        """Hits (Q, limit) among the passing rows of lists near the query; a query may get fewer than there are."""
        deeper = limit + (excluded.most if excluded is not None else 0)
        ids = np.empty((len(queries), int(SCORED_AGAIN * deeper) + 1), dtype=np.int64)
        is_far = self._is_far(queries)
        for members, num_probes in ((~is_far, self.plan.num_near), (is_far, self.plan.num_far)):
            if members.any():
                parameters = load_faiss().SearchParametersIVF(nprobe=num_probes)
                ids[members] = self.native.search(queries[members], ids.shape[1], params=parameters)[1]
        hits = self._scored(queries, ids, deeper)
        return hits if deeper == limit else first_permitted(hits, limit, excluded)

    def _is_far(self, queries: NDArray[np.float32]) -> NDArray[np.bool_]:
        """(Q,) true for queries whose nearest list holds no row that passes, where that makes a difference."""
        if self.plan.num_near == self.plan.num_far:
            return np.zeros(len(queries), dtype=np.bool_)
        is_far: NDArray[np.bool_] = ~self.plan.is_used[np.argmax(queries @ self.centres.T, axis=1)]
        return is_far

    def _scored(self, queries: NDArray[np.float32], ids: NDArray[np.int64], limit: int) -> Hits:
        """The best `limit` of hits (Q, K) by their own vectors; FAISS marks places without a hit with -1."""
        vectors = self.exact.gather(np.maximum(ids, 0).ravel() + 1).reshape(*ids.shape, -1)
        scores = np.where(ids < 0, np.float32(-np.inf), np.matmul(vectors, queries[:, :, None])[:, :, 0])
        order = np.argsort(-scores, axis=1, kind="stable")[:, :limit]
        hits = empty_hits(len(queries), limit)
        hits.rows[:, : order.shape[1]] = np.take_along_axis(ids, order, 1) + 1
        hits.scores[:, : order.shape[1]] = np.take_along_axis(scores, order, 1)
        return hits
