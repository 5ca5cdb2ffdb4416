"""The last steps: hits to a list a request, and places an arm left open filled with popular items, labelled as such."""

from collections.abc import Collection, Iterator, Sequence
from itertools import islice

import numpy as np

from index.base import Hits
from model.catalogue import Catalogue, Ragged
from model.merging import Merged, merge
from model.records import ServingPlan
from service.engine.messages import EMPTY, EngineRequest

FILLED = -1  # stands where a source would: the item came from no query vector


def merge_each(
    requests: Sequence[EngineRequest], hits: Hits, plan: ServingPlan, categories: Ragged | None
) -> list[Merged]:
    """A list for each request from hits (B, Q, K): those for lists of one length are merged together."""
    merged = [EMPTY] * len(requests)
    lengths = np.array([request.limit for request in requests])
    for limit in np.unique(lengths[lengths > 0]).tolist():
        members = np.flatnonzero(lengths == limit)
        # cut to its own depth: a deep neighbour must not change a pooled list
        rows, scores = hits.rows[members, :, :limit], hits.scores[members, :, :limit]
        lists = merge(rows, scores, limit, plan, categories)
        for place, member in enumerate(members.tolist()):
            merged[member] = lists.of(place)
    return merged


def complete(catalogue: Catalogue, merged: Merged, request: EngineRequest) -> Merged:
    """Fills a list that is short of the request's limit, as far as the catalogue has items that may be answered."""
    missing = min(request.limit, _num_answerable(catalogue, request)) - len(merged.rows)
    if missing <= 0:
        return merged
    # score 0: a popularity count is not an inner product
    fill = list(islice(_popular(catalogue, request, merged.rows.tolist()), missing))
    return Merged(
        np.append(merged.rows, np.array(fill, dtype=np.int64)),
        np.append(merged.scores, np.zeros(len(fill), dtype=np.float32)),
        np.append(merged.sources, np.full(len(fill), FILLED)),
    )


def _num_answerable(catalogue: Catalogue, request: EngineRequest) -> int:
    if request.allowed is None:
        return len(catalogue.items) - len(request.excluded)
    return int(request.allowed.sum()) - sum(bool(request.allowed[row - 1]) for row in request.excluded)


def _popular(catalogue: Catalogue, request: EngineRequest, listed: Collection[int]) -> Iterator[int]:
    """Rows that the request may be answered with and that are not listed yet, most popular first."""
    allowed, left_out = request.allowed, {*request.excluded, *listed}
    for row in catalogue.by_popularity.tolist():
        if row not in left_out and (allowed is None or allowed[row - 1]):
            yield row
