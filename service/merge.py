"""The last step: what the arm left open is filled with popular items, labelled as such."""

from collections.abc import Collection, Iterator

import numpy as np

from model.catalogue import Catalogue
from model.merging import Merged

FILLED = -1  # stands where a source would: the item came from no query vector


def complete(catalogue: Catalogue, merged: Merged, excluded: Collection[int], limit: int) -> Merged:
    """`limit` items whenever the catalogue has that many that are not excluded; filled places score 0."""
    missing = min(limit, len(catalogue.items) - len(excluded)) - len(merged.rows)
    if missing <= 0:
        return merged
    # score 0: a popularity count is not an inner product
    fill = list(_popular(catalogue, {*excluded, *merged.rows.tolist()}, missing))
    return Merged(
        np.append(merged.rows, np.array(fill, dtype=np.int64)),
        np.append(merged.scores, np.zeros(len(fill), dtype=np.float32)),
        np.append(merged.sources, np.full(len(fill), FILLED)),
    )


def _popular(catalogue: Catalogue, excluded: Collection[int], limit: int) -> Iterator[int]:
    for row in catalogue.by_popularity.tolist():
        if limit <= 0:
            return
        if row not in excluded:
            yield row
            limit -= 1
