"""A fully observed test set as a dialogue: some of a user's true positives are told, the rest is to be found.

Only for data whose test pairs are complete (KuaiRec): elsewhere what is not told may be what nobody was shown.
"""

from dataclasses import replace

import numpy as np

from model.catalogue import Ragged
from model.data.sequences import SequenceData

COUNTS = (10, 20, 50)


def reveal(data: SequenceData, count: int, seed: int = 0) -> SequenceData:
    """The data set with `count` random test positives of each user at the end of what is known of them.

    At most half of a user's positives are told: every user stays in the exam, at every count. The choice depends on
    seed and data alone, so every system gets the same.
    """
    rng = np.random.default_rng(seed)
    known, targets = [], []
    for user in range(len(data.test)):
        positives = rng.permutation(data.test[user])
        told = min(count, len(positives) // 2)
        known.append([*data.valid[user].tolist(), *positives[:told].tolist()])
        targets.append(positives[told:].tolist())
    return replace(data, valid=Ragged.of(known), test=Ragged.of(targets))
