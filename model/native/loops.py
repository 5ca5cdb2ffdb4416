"""The loops in C: whether they are there, and what each of them promises."""

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

VERSION = 2  # of the contracts below; native.h has the same number
SWITCH = "RECALL_LOOPS"  # "numpy" leaves the C code out


class Loops(Protocol):
    """Functions of C-contiguous arrays; they change nothing but what is named, and let other threads run meanwhile.

    Raise TypeError or ValueError for arrays of another type or size.
    """

    def most_novel(
        self,
        scores: NDArray[np.float32],
        vectors: NDArray[np.float32],
        before: NDArray[np.float32],
        share: float,
        limit: int,
        take: Callable[[int], bool] | None,
        /,
    ) -> list[int]:
        """Places of up to `limit` hits by maximal marginal relevance: the list of the definition in double precision.

        scores (P,) finite, P >= 1; vectors (P, D); before (T, D) those of items taken already. share: of novelty.
        take: takes a place, or tells that it may not be; None = any may be. The lists do not depend on the processor.
        """

    def best(
        self,
        scores: NDArray[np.float32],
        queries: NDArray[np.int64],
        excluded: NDArray[np.int64],
        rows: NDArray[np.int64],
        values: NDArray[np.float32],
        /,
    ) -> None:
        """Writes the best rows 1..N of each query and their scores, best first, ties in row order.

        scores (Q, N), -inf afterwards for each pair of `queries` (E,) and rows `excluded` (E,). rows, values: (Q, K) to
        be written, K <= N. Raises IndexError for a pair that is not among the scores.
        """

    def merge(
        self,
        rows: NDArray[np.int64],
        scores: NDArray[np.float32],
        shares: NDArray[np.int64],
        own_rows: NDArray[np.int64],
        own_scores: NDArray[np.float32],
        own_sources: NDArray[np.int64],
        /,
    ) -> bool:
        """Writes the list of each user (U, L) from its hits (U, Q, K), by shares (S,) of the first S queries.

        Without shares from one pool by score, ties by row; False, and nothing of use is written, where the hits of a
        query do not fall with ties by row. Places that stay empty have row 0.
        """


@dataclass(frozen=True)
class Loaded:
    """The code that an installation has."""

    loops: Loops | None  # None: NumPy's code runs
    reason: str  # for people


def load(switch: str) -> Loaded:
    """The loops, unless they are switched off, were not built, or were built from other sources than these."""
    if switch == "numpy":
        return Loaded(None, f"NumPy, by {SWITCH}")
    try:
        module = importlib.import_module("model.native._loops")
    except ImportError as error:
        return Loaded(None, f"NumPy, because the C code was not built ({error})")
    if getattr(module, "VERSION", 0) != VERSION:
        return Loaded(None, "NumPy, because the C code is of another version: install the package again")
    return Loaded(cast(Loops, module), f"C, {module.WIDTH}")


LOADED = load(os.environ.get(SWITCH, ""))
