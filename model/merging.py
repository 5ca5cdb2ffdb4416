"""From the hits of users' query vectors to one list each: the same function in plan selection, evaluation and serving.

With quotas (RecGPT, m : n) each step fills its share in order, skipping what an earlier step took. Without (ComiRec)
all hits are pooled by score; with `diversity` the pool is re-ranked greedily by score - lambda * (items of that
category already chosen) (ComiRec, KDD 2020, section 3.4). Pure functions over arrays: a batch is merged in a few calls,
and an answer does not depend on its batch.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.catalogue import Ragged
from model.native.loops import LOADED
from model.records import ServingPlan

Rows = NDArray[np.int64]
Scores = NDArray[np.float32]
Flags = NDArray[np.bool_]
MAX_COMPARED = 1 << 22  # pairs compared at once; beyond it sorting is cheaper
LAST = np.iinfo(np.int64).max


class Merged(NamedTuple):
    """Columns of one answer, best first."""

    rows: Rows  # (L,)
    scores: Scores
    sources: Rows  # number of the query vector: RecGPT's step, ComiRec's interest


class MergedLists(NamedTuple):
    """Answers of U users, filled from the left; row 0 is an empty place."""

    rows: Rows  # (U, L)
    scores: Scores
    sources: Rows

    def at(self, places: Rows) -> "MergedLists":
        """The same columns at other places (U, L')."""
        return MergedLists(
            np.take_along_axis(self.rows, places, 1),
            np.take_along_axis(self.scores, places, 1),
            np.take_along_axis(self.sources, places, 1),
        )

    def of(self, user: int) -> Merged:
        """One answer without its empty places."""
        length = int(np.count_nonzero(self.rows[user]))
        return Merged(self.rows[user, :length], self.scores[user, :length], self.sources[user, :length])


def split_limit(limit: int, quotas: Sequence[int]) -> list[int]:
    """`limit` places shared out in proportion to `quotas`, by largest remainder; earlier steps win ties."""
    total = sum(quotas)
    shares = [limit * quota // total for quota in quotas]
    by_remainder = sorted(range(len(quotas)), key=lambda step: (-(limit * quotas[step] % total), step))
    for step in by_remainder[: limit - sum(shares)]:
        shares[step] += 1
    return shares


def merge(rows: Rows, scores: Scores, limit: int, plan: ServingPlan, categories: Ragged | None = None) -> MergedLists:
    """Lists of at most `limit` different items from hits (U, Q, K), best first along K, row 0 where there is none.

    A list is short only when the hits themselves hold no more usable items.
    """
    num_users, num_queries, width = rows.shape
    diverse = bool(plan.diversity and categories and not plan.shares)
    if not diverse and (lists := _merge_in_c(rows, scores, limit, plan)):
        return lists
    if num_users == 1 and not diverse:
        return _merge_alone(rows[0], scores[0], limit, plan)
    ranks = _quota_ranks(rows, split_limit(limit, plan.shares)) if plan.shares else _pool_ranks(rows, scores)
    # the pool is cut after it was re-ranked, never before
    order = _first_of_each(rows.reshape(num_users, -1), ranks, num_queries * width if diverse else limit)
    sources = np.broadcast_to(np.arange(num_queries).repeat(width), ranks.shape)
    lists = MergedLists(rows.reshape(num_users, -1), scores.reshape(num_users, -1), sources).at(order)
    lists.rows[np.take_along_axis(ranks, order, 1) == LAST] = 0
    lists = _padded(lists, limit)
    return _diversify(lists, limit, plan.diversity, categories) if diverse and categories else lists


def _merge_in_c(rows: Rows, scores: Scores, limit: int, plan: ServingPlan) -> MergedLists | None:
    """The lists; None where the loop was not built, or does not take the order of the hits."""
    if LOADED.loops is None or not rows.size:
        return None
    shape = (len(rows), limit)
    lists = MergedLists(np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.float32), np.empty(shape, np.int64))
    rows, scores, shares = np.ascontiguousarray(rows), np.ascontiguousarray(scores), _shares_of(limit, plan.shares)
    is_merged = LOADED.loops.merge(rows, scores, shares, lists.rows, lists.scores, lists.sources)
    return lists if is_merged else None


@lru_cache(maxsize=1024)
def _shares_of(limit: int, quotas: tuple[int, ...]) -> Rows:
    return np.array(split_limit(limit, quotas) if quotas else (), dtype=np.int64)


def _merge_alone(rows: Rows, scores: Scores, limit: int, plan: ServingPlan) -> MergedLists:
    """The list (1, limit) of one user, item by item; rows and scores (Q, K).

    So many calls into NumPy take four times as long as going through the items of one list.
    """
    flat, values = rows.ravel(), scores.ravel()
    firsts: dict[int, int] = {}  # item row -> where it is taken from, in the order of the list
    if plan.shares:
        steps = rows.tolist()
        for number, share in enumerate(split_limit(limit, plan.shares)):
            _take(firsts, steps[number], number * rows.shape[1], min(len(firsts) + share, limit))
        for number, step in enumerate(steps):
            _take(firsts, step, number * rows.shape[1], limit)
    else:
        order = np.lexsort((flat, -values))
        for row, place in zip(flat[order].tolist(), order.tolist(), strict=True):
            firsts.setdefault(row, place)
            if len(firsts) > limit:
                break
        firsts.pop(0, None)
    places = np.fromiter(firsts.values(), np.int64, len(firsts))[:limit]
    lists = MergedLists(flat[None, places], values[None, places], places[None] // rows.shape[1])
    return _padded(lists, limit)


def _take(firsts: dict[int, int], step: Sequence[int], start: int, until: int) -> None:
    """Takes the items of a step that were not taken yet, in order, until there are so many; 0 is none."""
    missing = until - len(firsts)
    if not missing:
        return
    for place, row in enumerate(step, start):
        if row and row not in firsts:
            firsts[row] = place
            missing -= 1
            if not missing:
                return


def _pool_ranks(rows: Rows, scores: Scores) -> Rows:
    """(U, Q K) places in the order of falling scores, ties by row."""
    flat, values = rows.reshape(len(rows), -1), scores.reshape(len(rows), -1)
    ranks = np.empty_like(flat)
    order = np.lexsort((flat, -values), axis=1)
    np.put_along_axis(ranks, order, np.arange(flat.shape[1])[None], 1)
    return np.where(flat == 0, LAST, ranks)


def _quota_ranks(rows: Rows, shares: Sequence[int]) -> Rows:
    """(U, Q K) places: each step's share in order of the steps, then what was left over, in the same order."""
    num_users, num_steps, width = rows.shape
    places = np.broadcast_to(np.arange(num_steps * width).reshape(num_steps, width), rows.shape)
    ranks = np.where(rows == 0, LAST, places + num_steps * width)
    taken = rows[:, 0, :0]
    for step, share in enumerate(shares):
        # an item an earlier step took does not use up a place of this one
        free = (rows[:, step] != 0) & ~_among(rows[:, step], taken)
        chosen = free & (free.cumsum(1) <= share)
        ranks[:, step][chosen] = places[:, step][chosen]
        taken = np.concatenate([taken, np.where(chosen, rows[:, step], 0)], 1)
    return ranks.reshape(num_users, -1)


def _among(rows: Rows, taken: Rows) -> Flags:
    """(U, K) true where a row stands among its user's `taken` (U, T)."""
    if rows.size * taken.shape[1] <= MAX_COMPARED:
        among: Flags = (rows[:, :, None] == taken[:, None]).any(2)
        return among
    users = np.arange(len(rows))[:, None] * (int(max(rows.max(initial=0), taken.max(initial=0))) + 1)
    return np.isin(users + rows, users + taken)


def _first_of_each(rows: Rows, ranks: Rows, limit: int) -> Rows:
    """(U, L) positions by rank, each item where it stands first; the caller empties what has the rank LAST."""
    order = np.argsort(ranks, axis=1, kind="stable")
    # nearly always the start of the order repeats nothing and nothing has to be looked for behind it
    start = np.take_along_axis(rows, order[:, :limit], 1)
    if limit < order.shape[1] and not _repeats(start).any():
        return order[:, :limit]
    again = _repeats(np.take_along_axis(rows, order, 1))
    np.put_along_axis(ranks, order, np.where(again, LAST, np.take_along_axis(ranks, order, 1)), 1)
    return np.argsort(ranks, axis=1, kind="stable")[:, :limit]


def _repeats(rows: Rows) -> Flags:
    """(U, M) true where a row other than 0 stood before."""
    order = np.argsort(rows, axis=1, kind="stable")
    sorted_rows = np.take_along_axis(rows, order, 1)
    again = np.zeros(rows.shape, dtype=np.bool_)
    again[:, 1:] = (sorted_rows[:, 1:] == sorted_rows[:, :-1]) & (sorted_rows[:, 1:] != 0)
    repeats = np.empty_like(again)
    np.put_along_axis(repeats, order, again, 1)
    return repeats


def _padded(lists: MergedLists, limit: int) -> MergedLists:
    """At least `limit` wide."""
    missing = limit - lists.rows.shape[1]
    if missing <= 0:
        return lists
    wide = ((0, 0), (0, missing))
    return MergedLists(np.pad(lists.rows, wide), np.pad(lists.scores, wide), np.pad(lists.sources, wide))


def _diversify(pools: MergedLists, limit: int, penalty: float, categories: Ragged) -> MergedLists:
    """The pools re-ranked: again and again the arg max of score - penalty * (chosen items that share a category)."""
    users = np.arange(len(pools.rows))
    own = _categories_of(pools.rows, categories)  # (C, U, M)
    taken = np.zeros((len(users), int(own.max(initial=0)) + 1))
    counters = own + users[:, None] * taken.shape[1]  # flat places in `taken`
    values = np.where(pools.rows == 0, -np.inf, pools.scores.astype(np.float64))
    places = np.zeros((len(users), limit), dtype=np.int64)
    for place in range(limit):
        # of equal ones the first
        best = np.argmax(values - penalty * taken.take(counters).sum(0), axis=1)
        places[:, place] = best
        values[users, best] = -np.inf
        taken.ravel()[counters[:, users, best]] += 1
        taken[:, 0] = 0
    lists = pools.at(places)
    lists.rows[np.arange(limit) >= np.count_nonzero(pools.rows, axis=1)[:, None]] = 0
    return lists


def _categories_of(rows: Rows, categories: Ragged) -> Rows:
    """(C, U, M) categories of the items (U, M), counted from 1; 0 where an item has no further one, or is row 0."""
    # row r of the catalogue stands at r - 1
    starts = categories.offsets[rows - 1]
    lengths = np.where(rows == 0, 0, categories.offsets[rows] - starts)
    places = np.arange(int(lengths.max(initial=0)))[:, None, None]
    there = places < lengths
    numbers = np.zeros(there.shape, dtype=np.int64)
    numbers[there] = categories.values[(starts + places)[there]] + 1
    return numbers
