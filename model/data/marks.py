"""The marks of events by outcome, as arrays: a bare machine that trains reads them without what reads logs."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Flags = NDArray[np.bool_]


class Marks(NamedTuple):
    """True for each event of train, valid and test, in their order, that ended with the outcome."""

    train: Flags
    valid: Flags
    test: Flags
