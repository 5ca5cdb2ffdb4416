"""The reasons for a list: the history's nearest items, the places among each query vector's hits, popularity."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.catalogue import Catalogue, ExternalId
from model.records import SoftItems
from service.lists.diversity import Gather

NUM_SIMILAR, MAX_HISTORY = 3, 100  # items named, and newest items of the history that are looked at


NO_SOFT = SoftItems(np.zeros((0, 1), np.int64), np.zeros((0, 1), np.float32))


class Reasons(NamedTuple):
    """The reasons for L items of a list."""

    similar: NDArray[np.int64]  # (L, S) rows of the history's nearest items, 0 where there are fewer
    shares: NDArray[np.float32]  # (L, S) of the similarity of all the history
    ranks: NDArray[np.int64]  # (L, Q) place among the hits of each query vector, from 1; 0 = not among them
    soft: SoftItems = NO_SOFT  # of what was generated for the whole list

    def only(self, kept: NDArray[np.bool_]) -> "Reasons":
        """The reasons for some of the items, (L,)."""
        return Reasons(self.similar[kept], self.shares[kept], self.ranks[kept], self.soft)


def reasons_of(items: Sequence[int], listed: NDArray[np.int64], hits: NDArray[np.int64], gather: Gather) -> Reasons:
    """The reasons for the rows listed (L,), among hits (Q, K); items: the rows of the history, oldest first.

    An item's share is its inner product with the listed item, where that is above 0, over the sum of all such of the
    history: it says what the list resembles, not what the network computed.
    """
    history = np.array(list(dict.fromkeys(items[-MAX_HISTORY:])), dtype=np.int64)
    similar = np.zeros((len(listed), NUM_SIMILAR), dtype=np.int64)
    shares = np.zeros((len(listed), NUM_SIMILAR), dtype=np.float32)
    if len(history) and len(listed):
        # negative products are no likeness, and would make shares of others larger than 1
        likeness = np.maximum(gather(listed) @ gather(history).T, 0)  # (L, H)
        likeness /= np.maximum(likeness.sum(1, keepdims=True), 1e-12)
        best = np.argsort(-likeness, axis=1, kind="stable")[:, :NUM_SIMILAR]
        shares[:, : best.shape[1]] = np.take_along_axis(likeness, best, 1)
        similar[:, : best.shape[1]] = np.where(shares[:, : best.shape[1]] > 0, history[best], 0)
    return Reasons(similar, shares, _ranks(listed, hits))


def _ranks(listed: NDArray[np.int64], hits: NDArray[np.int64]) -> NDArray[np.int64]:
    """(L, Q) places from 1; 0 where an item is not among the hits."""
    ranks = np.zeros((len(listed), len(hits)), dtype=np.int64)
    for query, own in enumerate(hits):
        order = np.argsort(own, kind="stable")
        # behind the last hit there is nothing to compare with: the comparison below says 0 then
        places = np.minimum(np.searchsorted(own, listed, sorter=order), len(own) - 1)
        at = order[places]
        ranks[:, query] = np.where(own[at] == listed, at + 1, 0)
    return ranks


def deciles_of(listed: NDArray[np.int64], catalogue: Catalogue) -> NDArray[np.int64]:
    """(L,) 1 for the most popular tenth of the bundle's items, 10 for the least; 0 for items that came later."""
    places = catalogue.popularity_ranks  # (N,)
    inside = listed <= len(places)
    deciles = np.zeros(len(listed), dtype=np.int64)
    deciles[inside] = places[listed[inside] - 1] * 10 // len(places) + 1
    return deciles


def nearest_of(
    reasons: Reasons | None, catalogue: Catalogue, listed: Callable[[Sequence[ExternalId]], Sequence[ExternalId]]
) -> dict[str, Any]:
    """`nearest`: the nearest items of the generated ones, with their weights; nothing where none is soft.

    listed: gives external ids the form that they have in answers.
    """
    if reasons is None or not len(reasons.soft.rows):
        return {}
    items = [listed(catalogue.items.external(own)) for own in reasons.soft.rows.tolist()]
    weights = [[round(weight, 4) for weight in own] for own in reasons.soft.weights.tolist()]
    return {"nearest": {"items": items, "weights": weights}}


def columns_of(reasons: Reasons | None, rows: NDArray[np.int64], catalogue: Catalogue) -> dict[str, list[Any]]:
    """The reasons in external ids, a place for each row listed; rows that filled the list up have empty ones."""
    similar = reasons.similar.tolist() if reasons else []
    filled: list[list[Any]] = [[]] * (len(rows) - len(similar))
    return {
        "similar": [catalogue.items.external(row for row in own if row) for own in similar] + filled,
        "shares": [[round(share, 4) for share in own if share] for own in reasons.shares.tolist()] + filled
        if reasons
        else filled,
        "ranks": [[rank or None for rank in own] for own in reasons.ranks.tolist()] + filled if reasons else filled,
        "popularity": [decile or None for decile in deciles_of(rows, catalogue).tolist()],
    }
