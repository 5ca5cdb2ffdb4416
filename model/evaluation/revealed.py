"""A fully observed test set as a dialogue: some of a user's true positives are told, the rest is to be found.

Only for data whose test pairs are complete (KuaiRec): elsewhere what is not told may be what nobody was shown.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from model.catalogue import Ragged
from model.data.sequences import SequenceData, Split
from model.evaluation.protocol import EvalSplit

COUNTS = (10, 20, 50)


def eval_splits(data: SequenceData, split: Split, max_users: int | None = None) -> Iterator[tuple[str, EvalSplit]]:
    """The evaluations of a split, by name: the plain one, and where test pairs are complete one for each count told."""
    yield split, EvalSplit.of(data, split, max_users)
    if data.protocol == "given":
        for count in COUNTS:
            yield f"{split}, {count} revealed", EvalSplit.of(reveal(data, count, split), split, max_users)


def reveal(data: SequenceData, count: int, split: Split = "test", seed: int = 0) -> SequenceData:
    """The data set with `count` random positives of each user of a split at the end of what is known of them.

    At most half of a user's positives are told: every user is measured, at every count. The choice depends on
    seed and data alone, so every system gets the same.
    """
    rng = np.random.default_rng(seed)
    # told items are put where the split's own past ends, so that they are the newest of a history
    pasts, complete = (data.valid, data.test) if split == "test" else (data.train, data.valid)
    known, targets = [], []
    for user in range(len(complete)):
        positives = rng.permutation(complete[user])
        told = min(count, len(positives) // 2)
        known.append([*pasts[user].tolist(), *positives[:told].tolist()])
        targets.append(positives[told:].tolist())
    past, left = Ragged.of(known), Ragged.of(targets)
    return replace(data, valid=past, test=left) if split == "test" else replace(data, train=past, valid=left)
