"""The choice of a list among more hits than it is long: boosts, caps and diversity, within the plan's quotas.

Boosts change the order of each query vector's hits; then items are taken one after the other, each step of a plan with
quotas its share, by score or by maximal marginal relevance, without those whose author or category has had its share.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from index.base import Hits
from model.merging import Merged, split_limit
from model.records import ServingPlan
from model.rules import Boost, Cap, ListRules
from service.catalogue.live import LiveItems
from service.catalogue.snapshot import ItemSnapshot
from service.lists.diversity import Gather, Novelty

POOL, MIN_POOL, MAX_POOL = 5, 200, 20_000  # hits for each place of the list, at first; and bounds of a deeper look


def pool_size(limit: int, rules: ListRules) -> int:
    """Hits of each query vector that a list of `limit` items is chosen among."""
    return max(POOL * limit, MIN_POOL) if rules.is_shaped else limit


@dataclass(frozen=True)
class Shaper:
    """Chooses lists under one plan, among items of one snapshot."""

    plan: ServingPlan
    items: LiveItems
    snapshot: ItemSnapshot
    gather: Gather  # rows (K,) to vectors (K, D)

    def choose(self, limit: int, rules: ListRules, hits: Hits) -> Merged:
        """The list of a request from its own hits (Q, K); shorter than `limit` where the caps leave no more."""
        rows, scores = self._boosted(hits, rules) if rules.boosts else (hits.rows, hits.scores)
        groups = self._groups(rules.caps, rows.ravel()) if rules.caps else []
        picker = Picker(rules, rows.ravel(), scores.ravel(), groups, self.gather, len(rows) > 1)
        for phase, most in self._phases(rows, scores, limit):
            picker.take(phase, min(most, limit - len(picker.places)))
        places = np.array(picker.places, dtype=np.int64)
        return Merged(rows.ravel()[places], scores.ravel()[places], places // rows.shape[1])

    def _phases(
        self, rows: NDArray[np.int64], scores: NDArray[np.float32], limit: int
    ) -> Iterator[tuple[NDArray[np.int64], int]]:
        """Flat places of hits, best first, and how many may be taken of them."""
        width = rows.shape[1]
        real = rows.ravel() > 0
        if not self.plan.shares:
            order = _by_score(rows.ravel(), scores.ravel())
            yield order[real[order]], limit
            return
        steps = [np.arange(step * width, (step + 1) * width) for step in range(len(rows))]
        for step, share in zip(steps, split_limit(limit, self.plan.shares), strict=True):
            yield step[real[step]], share
        # what a step could not fill, the others do, in their order
        yield np.flatnonzero(real), limit

    def _boosted(self, hits: Hits, rules: ListRules) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The hits in the order of their boosted scores."""
        real = hits.rows > 0
        known = hits.scores[real]
        # a weight of 1 lifts an item by the distance between the best and the worst hit, whatever unit scores have
        spread = float(known.max() - known.min()) if known.size else 0.0
        rows, inverse = np.unique(hits.rows, return_inverse=True)
        bonus = sum((self._bonus(boost, rows) for boost in rules.boosts), np.zeros(len(rows)))
        scores = np.where(real, hits.scores + (spread * bonus[inverse.reshape(hits.rows.shape)]), -np.inf)
        order = np.argsort(-scores, axis=1, kind="stable")
        boosted: NDArray[np.float32] = np.take_along_axis(scores, order, 1).astype(np.float32)
        return np.take_along_axis(hits.rows, order, 1), boosted

    def _bonus(self, boost: Boost, rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """(K,) -1 to 1 for each row."""
        if boost.filter is not None:
            return boost.weight * self._passes(boost.filter, rows).astype(np.float64)
        age = boost.now - self.snapshot.numbers(boost.attribute or "", rows)
        # what lies ahead of now is as new as can be; what has no value gets nothing
        fresh = np.exp2(-np.clip(age, 0, None) / boost.half_life)
        bonus: NDArray[np.float64] = boost.weight * np.nan_to_num(fresh)
        return bonus

    def _passes(self, text: str, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        main = self.items.main_mask(self.snapshot, text)
        flags = self.snapshot.slot_flags(text)
        whole = np.concatenate([[False], np.ones(self.snapshot.num_main, np.bool_) if main is None else main, flags])
        passes: NDArray[np.bool_] = whole[rows]
        return passes

    def _groups(self, caps: tuple[Cap, ...], rows: NDArray[np.int64]) -> list[tuple[Cap, list[tuple[object, ...]]]]:
        unique, inverse = np.unique(rows, return_inverse=True)
        groups = [(cap, [(), *self.snapshot.groups(cap.attribute, unique[unique > 0].tolist())]) for cap in caps]
        # the first group belongs to row 0, whether it is among the hits or not
        shift = 0 if unique[:1] == 0 else 1
        return [(cap, [keys[place + shift] for place in inverse.tolist()]) for cap, keys in groups]


@dataclass
class Picker:
    """Takes items one after the other; `places` are those taken, in order."""

    rules: ListRules
    rows: NDArray[np.int64]  # (P,)
    scores: NDArray[np.float32]
    groups: list[tuple[Cap, list[tuple[object, ...]]]]  # of each place, by cap
    gather: Gather
    may_repeat: bool  # hits of several query vectors
    places: list[int] = field(default_factory=list)
    taken: set[int] = field(default_factory=set)
    counts: Counter[tuple[str, object]] = field(default_factory=Counter)

    @cached_property
    def most(self) -> dict[str, int]:
        """How many items may share a value, by attribute."""
        return {cap.attribute: cap.most for cap in self.rules.caps}

    @cached_property
    def items(self) -> list[int]:
        """The rows, for loops of Python."""
        items: list[int] = self.rows.tolist()
        return items

    def take(self, places: NDArray[np.int64], most: int) -> None:
        """Takes up to `most` of the places, which stand best first."""
        if most <= 0 or not len(places):
            return
        if self.rules.diversity:
            self._take_novel(places, most)
            return
        left = most
        for place in places.tolist():
            left -= self._take(place)
            if not left:
                return

    def _take(self, place: int) -> bool:
        """Takes a place; False where its item was taken before, or a cap is reached."""
        item = self.items[place]
        if item in self.taken:
            return False
        if self.groups:
            keys = [(cap.attribute, value) for cap, groups in self.groups for value in groups[place]]
            if any(self.counts[key] >= self.most[key[0]] for key in keys):
                return False
            self.counts.update(keys)
        self.taken.add(item)
        self.places.append(place)
        return True

    def _take_novel(self, places: NDArray[np.int64], most: int) -> None:
        """The same by relevance and novelty."""
        rows = self.rows[places]
        novelty = Novelty(rows, self.scores[places], self.rules.diversity, self.gather)
        if self.groups or self.taken or (self.may_repeat and len({*rows.tolist()}) < len(rows)):
            flat = places.tolist()
            novelty.choose(most, self.rows[self.places].tolist(), lambda n: self._take(flat[n]))
            return
        # nothing to look at item by item
        chosen = np.array(novelty.choose(most, ()), dtype=np.int64)
        self.places += places[chosen].tolist()
        self.taken.update(rows[chosen].tolist())


def _by_score(rows: NDArray[np.int64], scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """(P,) places in the order of falling scores, ties by row."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    # a sort by two keys takes ten times as long as one of what is nearly sorted
    return np.lexsort((rows, -scores)) if (ranked[1:] == ranked[:-1]).any() else order
