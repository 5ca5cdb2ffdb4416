"""The last steps: hits to a list a request, and places an arm left open filled with popular items, labelled as such."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import chain, islice
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from index.base import Hits
from model.catalogue import Catalogue, Ragged
from model.merging import Merged, merge
from model.records import ServingPlan
from model.rules import ListRules
from service.catalogue.live import LiveItems
from service.catalogue.snapshot import ItemSnapshot

EMPTY = Merged(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32), np.zeros(0, dtype=np.int64))
FRESH = -2  # stands where a source would: the item came by the channel of new items
FILLED = -1  # stands where a source would: the item came from no query vector


class ListRequest(Protocol):
    """The part of a request that its list follows from."""

    @property
    def limit(self) -> int: ...
    @property
    def excluded(self) -> Collection[int]: ...
    @property
    def rules(self) -> ListRules: ...


def merge_each(
    requests: Sequence[ListRequest], hits: Hits, plan: ServingPlan, categories: Ragged | None
) -> list[Merged]:
    """A list for each request from hits (B, Q, K): those for lists of one length are merged together."""
    merged = [EMPTY] * len(requests)
    for limit in {request.limit for request in requests} - {0}:
        members = [number for number, request in enumerate(requests) if request.limit == limit]
        # nearly always all of them, which need no copy
        own = slice(None) if len(members) == len(requests) else members
        # cut to its own depth: a deep neighbour must not change a pooled list
        lists = merge(hits.rows[own, :, :limit], hits.scores[own, :, :limit], limit, plan, categories)
        for place, member in enumerate(members):
            merged[member] = lists.of(place)
    return merged


def complete(items: LiveItems, merged: Merged, request: ListRequest) -> Merged:
    """Fills a list that is short of the request's limit, as far as there are items that may be answered.

    Popular items of the bundle first, then those that came after it; within the request's filter and caps.
    """
    missing = request.limit - len(merged.rows)
    if missing <= 0:
        return merged
    # score 0: a popularity count is not an inner product
    fill = list(islice(_popular(items, request, merged.rows.tolist()), missing))
    return Merged(
        np.append(merged.rows, np.array(fill, dtype=np.int64)),
        np.append(merged.scores, np.zeros(len(fill), dtype=np.float32)),
        np.append(merged.sources, np.full(len(fill), FILLED)),
    )


def _popular(items: LiveItems, request: ListRequest, listed: Sequence[int]) -> Iterator[int]:
    """Rows that the request may be answered with and that are not listed yet."""
    snapshot, rules = items.snapshot, request.rules
    mask, left_out = items.main_mask(snapshot, rules.filter), {*request.excluded, *listed, *snapshot.main.recent}
    slots = np.flatnonzero(snapshot.slot_flags(rules.filter)) + snapshot.num_main + 1
    counts = Counter(key for row in listed for key in groups_of(snapshot, rules, row))
    for row in chain(_by_popularity(items.catalogue, mask).tolist(), slots.tolist()):
        if row in left_out:
            continue
        if within_caps(snapshot, rules, row, counts):
            yield row


def _by_popularity(catalogue: Catalogue, mask: NDArray[np.bool_] | None) -> NDArray[np.int64]:
    """The rows of the bundle that pass, most popular first."""
    if mask is None:
        return catalogue.by_popularity
    # the few that pass are sorted, not all items filtered: popularity ranks are kept with the catalogue
    rows = np.flatnonzero(mask) + 1
    return rows[np.argsort(catalogue.popularity_ranks[rows - 1])]


def within_caps(snapshot: ItemSnapshot, rules: ListRules, row: int, counts: Counter[tuple[str, object]]) -> bool:
    """Tells if one more row keeps the caps, and counts it then."""
    if not rules.caps:
        return True
    groups = groups_of(snapshot, rules, row)
    most = {cap.attribute: cap.most for cap in rules.caps}
    if any(counts[key] >= most[key[0]] for key in groups):
        return False
    counts.update(groups)
    return True


def groups_of(snapshot: ItemSnapshot, rules: ListRules, row: int) -> list[tuple[str, object]]:
    """The capped values of a row."""
    return [(cap.attribute, value) for cap in rules.caps for value in snapshot.groups(cap.attribute, [row])[0]]
