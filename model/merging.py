"""From the hits of a user's query vectors to one list: the same function in plan selection, evaluation and serving.

With quotas (RecGPT, m : n) each step fills its share in order, skipping what an earlier step took. Without (ComiRec)
all hits are pooled by score; with `diversity` the pool is re-ranked greedily by score - lambda * (items of that
category already chosen) (ComiRec, KDD 2020, section 3.4). Pure functions over Python lists: a list is a few hundred
items long.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.catalogue import Ragged
from model.records import ServingPlan

Entry = tuple[int, float, int]  # item row, score, query vector it came from


class Merged(NamedTuple):
    """Columns of one answer, best first."""

    rows: list[int]
    scores: list[float]
    sources: list[int]  # number of the query vector: RecGPT's step, ComiRec's interest


def split_limit(limit: int, quotas: Sequence[int]) -> list[int]:
    """`limit` places shared out in proportion to `quotas`, by largest remainder; earlier steps win ties."""
    total = sum(quotas)
    shares = [limit * quota // total for quota in quotas]
    by_remainder = sorted(range(len(quotas)), key=lambda step: (-(limit * quotas[step] % total), step))
    for step in by_remainder[: limit - sum(shares)]:
        shares[step] += 1
    return shares


def merge(
    rows: NDArray[np.int64],
    scores: NDArray[np.float32],
    excluded: Collection[int],
    limit: int,
    plan: ServingPlan,
    categories: Ragged | None = None,
) -> Merged:
    """One list of at most `limit` different items, none of them excluded, from hits (Q, K), best first in each row.

    The list is short only when the hits themselves hold no more usable items.
    """
    steps = [
        list(_usable(r, s, step, excluded))
        for step, (r, s) in enumerate(zip(rows.tolist(), scores.tolist(), strict=True))
    ]
    if plan.quotas:
        chosen: Iterable[Entry] = _by_quota(steps, split_limit(limit, plan.quotas))
    else:
        pool = _unique(sorted((entry for step in steps for entry in step), key=lambda entry: (-entry[1], entry[0])))
        chosen = _diverse(pool, limit, plan.diversity, categories) if plan.diversity and categories else pool
    columns = list(zip(*list(chosen)[:limit], strict=True)) or [(), (), ()]
    return Merged(list(columns[0]), list(columns[1]), list(columns[2]))


def _usable(rows: list[int], scores: list[float], step: int, excluded: Collection[int]) -> Iterator[Entry]:
    for row, score in zip(rows, scores, strict=True):
        if row and row not in excluded:
            yield row, score, step


def _unique(entries: Iterable[Entry]) -> list[Entry]:
    # a dict keeps the order of first sight
    first: dict[int, Entry] = {}
    for entry in entries:
        first.setdefault(entry[0], entry)
    return list(first.values())


def _by_quota(steps: Sequence[list[Entry]], shares: Sequence[int]) -> list[Entry]:
    """Each step's share in order; what a short step leaves open is filled with the others' next best."""
    chosen: dict[int, Entry] = {}
    for entries, share in zip(steps, shares, strict=True):
        # an item an earlier step took does not use up a place of this one
        stop = len(chosen) + share
        for entry in entries:
            if len(chosen) >= stop:
                break
            chosen.setdefault(entry[0], entry)
    return _unique(chain(chosen.values(), *steps))


def _diverse(pool: list[Entry], limit: int, penalty: float, categories: Ragged) -> Iterator[Entry]:
    """Greedy arg max of score - penalty * (chosen items that share a category)."""
    taken: Counter[int] = Counter()
    # row r of the catalogue stands at r - 1
    left = [(entry, categories[entry[0] - 1].tolist()) for entry in pool]
    while left and limit:
        best = max(range(len(left)), key=lambda i: left[i][0][1] - penalty * sum(taken[c] for c in left[i][1]))
        entry, own = left.pop(best)
        taken.update(own)
        limit -= 1
        yield entry
