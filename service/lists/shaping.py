"""The choice of a list among more hits than it is long: boosts, caps and diversity, within the plan's quotas.

Boosts change the order of each query vector's hits; then items are taken one after the other, each step of a plan with
quotas its share, by score or by maximal marginal relevance, without those whose author or category has had its share.
Source of MMR: Carbonell and Goldstein, SIGIR 1998.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from index.base import Hits
from model.merging import Merged, split_limit
from model.records import ServingPlan
from model.rules import Boost, Cap, ListRules
from service.catalogue.live import LiveItems
from service.catalogue.snapshot import ItemSnapshot

POOL, MIN_POOL, MAX_POOL = 5, 200, 20_000  # hits for each place of the list, at first; and bounds of a deeper look
Gather = Callable[[NDArray[np.int64]], NDArray[np.float32]]


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
        picker = Picker(rules, rows.ravel(), scores.ravel(), self._groups(rules.caps, rows.ravel()))
        if rules.diversity:
            picker = picker.with_vectors(self.gather)
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
        if not self.plan.quotas:
            order = np.lexsort((rows.ravel(), -scores.ravel()))
            yield order[real[order]], limit
            return
        steps = [np.arange(step * width, (step + 1) * width) for step in range(len(rows))]
        for step, share in zip(steps, split_limit(limit, self.plan.quotas), strict=True):
            yield step[real[step]], share
        # what a step could not fill, the others do, in their order
        yield np.flatnonzero(real), limit

    def _boosted(self, hits: Hits, rules: ListRules) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The hits in the order of their boosted scores."""
        real = hits.rows > 0
        known = hits.scores[real]
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
        shift = 0 if unique[:1] == 0 else 1
        return [(cap, [keys[place + shift] for place in inverse.tolist()]) for cap, keys in groups]


@dataclass
class Picker:
    """Takes items one after the other; `places` are those taken, in order."""

    rules: ListRules
    rows: NDArray[np.int64]  # (P,)
    scores: NDArray[np.float32]
    groups: list[tuple[Cap, list[tuple[object, ...]]]]  # of each place, by cap
    vectors: NDArray[np.float32] | None = None  # (P, D) of length 1, for diversity
    places: list[int] = field(default_factory=list)
    taken: set[int] = field(default_factory=set)
    counts: Counter[tuple[str, object]] = field(default_factory=Counter)

    def with_vectors(self, gather: Gather) -> "Picker":
        unique, inverse = np.unique(self.rows, return_inverse=True)
        vectors = gather(np.maximum(unique, 1))
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        return Picker(self.rules, self.rows, self.scores, self.groups, vectors[inverse])

    def take(self, places: NDArray[np.int64], most: int) -> None:
        """Takes up to `most` of the places, which stand best first."""
        if most <= 0 or not len(places):
            return
        order = self._by_score(places) if self.vectors is None else self._by_novelty(places, self.vectors)
        for place in order:
            self.places.append(place)
            self.taken.add(int(self.rows[place]))
            self.counts.update(key for key in self._keys(place))
            most -= 1
            if not most:
                return

    def _may_be_taken(self, place: int) -> bool:
        if int(self.rows[place]) in self.taken:
            return False
        return all(
            self.counts[cap.attribute, value] < cap.most for cap, groups in self.groups for value in groups[place]
        )

    def _keys(self, place: int) -> Iterator[tuple[str, object]]:
        return ((cap.attribute, value) for cap, groups in self.groups for value in groups[place])

    def _by_score(self, places: NDArray[np.int64]) -> Iterator[int]:
        return (place for place in places.tolist() if self._may_be_taken(place))

    def _by_novelty(self, places: NDArray[np.int64], vectors: NDArray[np.float32]) -> Iterator[int]:
        """Again and again the best of (1 - d) * relevance - d * likeness to the nearest item taken."""
        share, own = self.rules.diversity, vectors[places]
        scores = self.scores[places].astype(np.float64)
        low, high = float(scores.min()), float(scores.max())
        relevance = (scores - low) / (high - low) if high > low else np.ones(len(scores))
        nearest = np.zeros(len(places))
        if self.places:
            nearest = np.maximum(nearest, (own @ vectors[self.places].T).max(1))
        values = (1 - share) * relevance
        while True:
            best = int(np.argmax(values - share * nearest))
            if values[best] == -np.inf:
                return
            place = int(places[best])
            values[best] = -np.inf
            if self._may_be_taken(place):
                yield place
                nearest = np.maximum(nearest, own @ vectors[place])
