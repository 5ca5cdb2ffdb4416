"""The loops in C: whether they are there, and what each of them promises."""

import importlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

VERSION = 3  # of the contracts below; native.h has the same number
SWITCH = "RECALL_LOOPS"  # "numpy" leaves the C code out


Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


class Loops(Protocol):
    """Functions of C-contiguous arrays; they change nothing but what is named, and let other threads run meanwhile.

    Raise TypeError or ValueError for arrays of another type or size.
    """

    CAN_SIFT: int  # 0 where the processor has no fused operations, or nobody wrote the loop for it

    def most_novel(
        self,
        scores: Floats,
        vectors: Floats,
        before: Floats,
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
        scores: Floats,
        queries: Rows,
        excluded: Rows,
        rows: Rows,
        values: Floats,
        /,
    ) -> None:
        """Writes the best rows 1..N of each query and their scores, best first, ties in row order.

        scores (Q, N), -inf afterwards for each pair of `queries` (E,) and rows `excluded` (E,). rows, values: (Q, K) to
        be written, K <= N. Raises IndexError for a pair that is not among the scores.
        """

    def merge(
        self,
        rows: Rows,
        scores: Floats,
        shares: Rows,
        own_rows: Rows,
        own_scores: Floats,
        own_sources: Rows,
        /,
    ) -> bool:
        """Writes the list of each user (U, L) from its hits (U, Q, K), by shares (S,) of the first S queries.

        Without shares from one pool by score, ties by row; False, and nothing of use is written, where the hits of a
        query do not fall with ties by row. Places that stay empty have row 0.
        """

    def exact_scores(self, vectors: Floats, query: Floats, scores: Floats, /) -> None:
        """Writes the scores (N,) of vectors (N, D): sums in the order of dimensions, each step fused."""

    def search_sifted(
        self,
        sifted: tuple[NDArray[np.int8], Floats, Floats, Floats],
        queries: Floats,
        whose: Rows,
        excluded: Rows,
        rows: Rows,
        values: Floats,
        /,
    ) -> bool:
        """Writes what `best` would write from all scores; False, and nothing of use, where too many items may be best.

        sifted: codes, scales, margins and vectors of a Sieve (sieve.py). queries: (1 .. 4, D).
        """


@dataclass(frozen=True)
class Loaded:
    """The code that an installation has."""

    loops: Loops | None  # None: NumPy's code runs
    reason: str  # for people


def load(switch: str) -> Loaded:
    """The loops, unless they are switched off, were not built, or were built from other sources than these.

    Raises ValueError for a switch that says neither.
    """
    if switch not in ("", "numpy"):
        raise ValueError(f"{SWITCH} is {switch!r}; it takes numpy, or nothing")
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
