"""The search of items that came after a bundle: beside its index, or beside an index of the earlier ones among them."""

import numpy as np
from numpy.typing import NDArray

from index.base import EXACT, Exclusions, Hits, ItemIndex
from index.best import best_on_cpu
from service.catalogue.folded import FoldedSlots, SlotTable
from service.catalogue.snapshot import ItemSnapshot
from service.catalogue.state import Flags

MOST = 0.5  # share of the folded slots that must be searched for their lists to be: with fewer they find too little


def search_slots(
    snapshot: ItemSnapshot, queries: NDArray[np.float32], depth: int, excluded: Exclusions, text: str | None
) -> Hits:
    """Hits (Q, K) among the slots that are alive and pass the filter."""
    if snapshot.table is None:
        raise ValueError("the snapshot of an engine has the vectors of its slots")
    table, first, flags = snapshot.table, snapshot.num_main, snapshot.slot_flags(text)
    # slot rows counted from 1, as a search of slots alone counts them
    own = Exclusions(excluded.queries[excluded.rows > first], excluded.rows[excluded.rows > first] - first)
    if table.folded is None or table.moved is None:
        return shifted(scored(table.vectors, queries, depth, own, flags), first)
    inside = flags[: len(table.folded)] & ~table.moved
    if table.folded.index.spec != EXACT and np.count_nonzero(inside) < MOST * len(inside):
        return shifted(scored(table.vectors, queries, depth, own, flags), first)
    in_lists = search_folded(table.folded, queries, depth, own, inside)
    return shifted(joined(in_lists, scored_rest(table, queries, depth, own, flags), depth), first)


def search_folded(
    folded: FoldedSlots[ItemIndex], queries: NDArray[np.float32], depth: int, excluded: Exclusions, allowed: Flags
) -> Hits:
    mask = None if allowed.all() else allowed
    return folded.index.search(queries, min(depth, len(folded)), excluded.up_to(len(folded)), mask)


def scored_rest(
    table: SlotTable[ItemIndex], queries: NDArray[np.float32], depth: int, excluded: Exclusions, flags: Flags
) -> Hits:
    """Hits among the slots that no index stands for."""
    rest, first = table.rest, len(flags) - len(table.rest)
    if not table.num_moved:
        # the last of all: no place has to be looked up
        inside = excluded.rows > first
        own = Exclusions(excluded.queries[inside], excluded.rows[inside] - first)
        return shifted(scored(table.rest_vectors, queries, depth, own, flags[first:]), first)
    places = np.searchsorted(rest, excluded.rows - 1)
    inside = (places < len(rest)) & (np.append(rest, -1)[places] == excluded.rows - 1)
    own = Exclusions(excluded.queries[inside], places[inside] + 1)
    hits = scored(table.rest_vectors, queries, depth, own, flags[rest])
    return Hits(np.append(0, rest + 1)[hits.rows], hits.scores)


def scored(
    vectors: NDArray[np.float32], queries: NDArray[np.float32], depth: int, excluded: Exclusions, flags: Flags
) -> Hits:
    """Hits among all rows of a table that may be found; row 0 where there are no more."""
    if not len(vectors):
        return Hits(*(np.zeros((len(queries), 0), dtype=dtype) for dtype in (np.int64, np.float32)))
    rows, scores = best_on_cpu(products(queries, vectors), min(depth, len(vectors)), excluded, flags)
    return Hits(np.where(np.isneginf(scores), 0, rows), scores)


def products(queries: NDArray[np.float32], vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """(Q, R) inner products, a query at a time: alone it gets the bits that it has in a batch."""
    scores = np.empty((len(queries), len(vectors)), dtype=np.float32)
    for query, own in zip(queries, scores, strict=True):
        np.dot(vectors, query, out=own)
    return scores


def shifted(hits: Hits, first: int) -> Hits:
    """The hits with real rows counted behind the bundle's."""
    return Hits(np.where(hits.rows == 0, 0, hits.rows + first), hits.scores)


def joined(main: Hits, fresh: Hits, depth: int) -> Hits:
    """The best `depth` of both, by score; those of `main` first within a tie."""
    rows, scores = np.concatenate([main.rows, fresh.rows], 1), np.concatenate([main.scores, fresh.scores], 1)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    return Hits(np.take_along_axis(rows, order, 1), np.take_along_axis(scores, order, 1))
