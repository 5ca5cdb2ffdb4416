"""From query vectors to lists: search under filters, fresh items among the bundle's, merge or choice, reasons.

Requests of one filter are searched together. A list that its caps leave short is looked for deeper, by itself.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from index.base import Hits, ItemIndex
from model.catalogue import Ragged
from model.merging import Merged
from model.records import History, ServingPlan, SoftItems
from service.catalogue.live import LiveItems
from service.catalogue.snapshot import ItemSnapshot
from service.engine.messages import EngineRequest, exclusions
from service.errors import BadRequest
from service.lists.fill import EMPTY, FRESH, groups_of, merge_each, within_caps
from service.lists.reasons import Reasons, reasons_of
from service.lists.shaping import MAX_POOL, Shaper, pool_size
from service.lists.slots import joined, search_slots

if TYPE_CHECKING:
    from index.exact import ExactIndex

DEEPER = 4  # times as many hits, where a list is short


@dataclass(frozen=True, eq=False)
class ServedItems:
    """The items under their changes, and the vectors of those of the bundle."""

    live: LiveItems
    exact: "ExactIndex"
    fresh_share: float = 0.0  # of each list, kept for items that came after the bundle
    nearest: Callable[[History], SoftItems] | None = None  # of soft items; asked for reasons alone


class Asked(NamedTuple):
    """A request and its query vectors."""

    request: EngineRequest
    vectors: NDArray[np.float32]  # (Q, D)


@dataclass(frozen=True, eq=False)
class Finder:
    """Finds the lists of one batch."""

    index: ItemIndex
    plan: ServingPlan
    categories: Ragged | None
    served: ServedItems | None
    snapshot: ItemSnapshot | None

    @classmethod
    def now(
        cls, index: ItemIndex, plan: ServingPlan, categories: Ragged | None, served: ServedItems | None
    ) -> "Finder":
        """A finder in the newest snapshot."""
        return cls(index, plan, categories, served, served.live.snapshot if served else None)

    @property
    def number(self) -> int:
        """The last change that its lists know."""
        return self.snapshot.number if self.snapshot else 0

    @property
    def num_items(self) -> int:
        return self.index.num_items + (self.snapshot.num_slots if self.snapshot else 0)

    def find(self, asked: Sequence[Asked], depth: int | None = None) -> Hits:
        """Hits (B, Q, K) of each request's vectors; `depth` of each vector, by default what the lists need."""
        if depth is None:
            # one search for all of a batch: the longest list decides, others read a part of what it finds
            depth = max(pool_size(request.limit, request.rules) for request, _ in asked)
        depth = min(depth, self.num_items)
        filters = [request.rules.filter for request, _ in asked]
        if len(set(filters)) == 1:
            return self._search(asked, depth)
        parts, order = list[Hits](), list[int]()
        for text in dict.fromkeys(filters):
            members = [n for n, own in enumerate(filters) if own == text]
            parts.append(self._search([asked[n] for n in members], depth))
            order += members
        # found filter by filter, put back in the order in which they were asked
        places = np.argsort(order)
        return Hits(*(np.concatenate(arrays)[places] for arrays in zip(*parts, strict=True)))

    def lists(self, asked: Sequence[Asked], hits: Hits) -> list[tuple[Merged, Reasons | None]]:
        """The list of each request, merged by the plan or chosen by its rules."""
        requests = [request for request, _ in asked]
        merged = self._plain(requests, hits)
        for number, own in enumerate(asked):
            if own.request.rules.is_shaped and own.request.limit:
                merged[number] = self._chosen(own, Hits(hits.rows[number], hits.scores[number]))
        if self.served and self.served.fresh_share and self.snapshot and self.snapshot.alive_slots.any():
            channel = FreshChannel(self.snapshot, self.served.fresh_share)
            merged = [channel.fill(own.request, own.vectors, listed) for own, listed in zip(asked, merged, strict=True)]
        return [
            (listed, self._reasons(request, listed, hits.rows[number]) if request.explain and self.served else None)
            for number, (request, listed) in enumerate(zip(requests, merged, strict=True))
        ]

    def _plain(self, requests: Sequence[EngineRequest], hits: Hits) -> list[Merged]:
        if not any(request.rules.is_shaped for request in requests):
            return merge_each(requests, hits, self.plan, self.categories)
        members = [number for number, request in enumerate(requests) if not request.rules.is_shaped]
        merged = [EMPTY] * len(requests)
        own = merge_each(
            [requests[n] for n in members], Hits(hits.rows[members], hits.scores[members]), self.plan, self.categories
        )
        for number, listed in zip(members, own, strict=True):
            merged[number] = listed
        return merged

    def _chosen(self, asked: Asked, hits: Hits) -> Merged:
        """The list of a request with rules; its own hits (Q, K), or deeper ones where they are not enough."""
        served, snapshot = self._required()
        request = asked.request
        shaper = Shaper(self.plan, served.live, snapshot, self._gather)
        depth = min(pool_size(request.limit, request.rules), hits.rows.shape[1])
        hits = Hits(hits.rows[:, :depth], hits.scores[:, :depth])
        while True:
            merged = shaper.choose(request.limit, request.rules, hits)
            # a row 0 among the hits says that the index has no more
            is_all = not hits.rows.all() or depth >= min(self.num_items, MAX_POOL)
            if len(merged.rows) >= request.limit or is_all:
                return merged
            depth *= DEEPER
            deeper = self.find([asked], min(depth, MAX_POOL))
            hits = Hits(deeper.rows[0], deeper.scores[0])

    def _reasons(self, request: EngineRequest, merged: Merged, hits: NDArray[np.int64]) -> Reasons:
        reasons = reasons_of(request.history.items, merged.rows, hits, self._gather)
        served, _ = self._required()
        # a cheaper plan generates nothing
        if served.nearest is None or self.plan.prompts.before_soft is None:
            return reasons
        return reasons._replace(soft=served.nearest(request.history))

    def _required(self) -> tuple[ServedItems, ItemSnapshot]:
        if self.served is None or self.snapshot is None:
            raise BadRequest(
                "this engine takes no filter, caps, boosts or diversity: it was made without its ServedItems, "
                "which load_arm gives it"
            )
        return self.served, self.snapshot

    def _gather(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        """(K, D) the vectors of rows, fresh ones among them."""
        served, snapshot = self._required()
        inside = rows <= snapshot.num_main
        if inside.all() or snapshot.table is None:
            return served.exact.gather(rows)
        vectors = np.empty((len(rows), served.exact.dim), dtype=np.float32)
        vectors[inside] = served.exact.gather(rows[inside])
        vectors[~inside] = snapshot.table.vectors[rows[~inside] - snapshot.num_main - 1]
        return vectors

    def _search(self, asked: Sequence[Asked], depth: int) -> Hits:
        """Hits (B, Q, K) of requests that have one filter, or none."""
        queries = np.concatenate([vectors for _, vectors in asked])  # (B Q, D)
        requests, num_queries = [request for request, _ in asked], len(queries) // len(asked)
        if any(request.rules.filter is not None for request in requests):
            self._required()
        if self.snapshot is None or self.served is None:
            excluded = exclusions(requests, num_queries, self.index.num_items)
            hits = self.index.search(queries, depth, excluded)
        else:
            text, snapshot = requests[0].rules.filter, self.snapshot
            excluded = exclusions(requests, num_queries, self.num_items, snapshot.main.recent)
            # the index knows the bundle's rows alone; slots are searched by themselves below
            own = excluded.up_to(self.index.num_items)
            mask = self.served.live.main_mask(snapshot, text)
            hits = self.index.search(queries, min(depth, self.index.num_items), own, mask)
            if snapshot.num_slots and snapshot.table is not None:
                fresh = search_slots(snapshot, queries, depth, excluded, text)
                hits = joined(hits, fresh, depth)
        shape = (len(requests), num_queries, -1)
        return Hits(hits.rows.reshape(shape), hits.scores.reshape(shape))


@dataclass(frozen=True, eq=False)
class FreshChannel:
    """Places at the end of a list for items that came after the bundle, where fewer got in by their scores."""

    snapshot: ItemSnapshot
    share: float  # of the list

    def fill(self, request: EngineRequest, vectors: NDArray[np.float32], listed: Merged) -> Merged:
        """The list with its last items of the bundle replaced, as many as are lacking and may be listed."""
        is_fresh = listed.rows > self.snapshot.num_main
        lacking = int(self.share * request.limit) - int(is_fresh.sum())
        if lacking <= 0:
            return listed
        chosen = self._best(request, vectors, lacking, listed.rows.tolist())
        if not chosen:
            return listed
        places = np.flatnonzero(~is_fresh)
        num_free = max(request.limit - len(listed.rows), 0)
        # the last of the bundle's items go, as many as do not fit behind a list that is short
        gone = places[len(places) - min(max(len(chosen) - num_free, 0), len(places)) :]
        rows, scores, sources = (np.delete(column, gone) for column in listed)
        return Merged(
            np.append(rows, np.array([*chosen], dtype=np.int64)),
            np.append(scores, np.array([*chosen.values()], dtype=np.float32)),
            np.append(sources, np.full(len(chosen), FRESH)),
        )

    def _best(
        self, request: EngineRequest, vectors: NDArray[np.float32], lacking: int, listed: Sequence[int]
    ) -> dict[int, float]:
        """The best rows that are not listed, with their scores; within the request's filter and caps."""
        excluded = exclusions([request], len(vectors), self.snapshot.num_rows)
        depth, num_slots = lacking + len(listed), self.snapshot.num_slots
        while True:
            hits = search_slots(self.snapshot, vectors, depth, excluded, request.rules.filter)
            chosen = self._first(request, hits, lacking, listed)
            # only caps may ask for more than so many: without them what is left out is listed
            if len(chosen) == lacking or depth >= num_slots or not hits.rows.all():
                return chosen
            depth *= DEEPER

    def _first(self, request: EngineRequest, hits: Hits, lacking: int, listed: Sequence[int]) -> dict[int, float]:
        """The first of the hits that may be listed."""
        order = np.argsort(-hits.scores.ravel(), kind="stable")
        chosen: dict[int, float] = {}
        counts = Counter(key for row in listed for key in groups_of(self.snapshot, request.rules, row))
        for row, score in zip(hits.rows.ravel()[order].tolist(), hits.scores.ravel()[order].tolist(), strict=True):
            if not row or len(chosen) == lacking:
                break
            if row in chosen or row in listed or not within_caps(self.snapshot, request.rules, row, counts):
                continue
            chosen[row] = score
        return chosen
