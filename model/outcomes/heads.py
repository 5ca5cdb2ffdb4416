"""A head an outcome: q + U (V q) + b in place of the query vector q. NumPy alone, one user at a time.

The network, its item table and what is cached of a history are those of the plain answer: an outcome is chosen after
them, and costs two thin products (docs/decisions/0087-outcomes.md).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class OutcomeFit:
    """How one head was trained, and what it gained on the validation targets that ended with its outcome."""

    name: str
    num_events: int  # of training that ended so
    epochs: int  # that were taken; 0 = the plain query vector is as good, and is what the head gives
    rate: float = 0.0  # of its training
    metric: str = ""  # empty = not measured, for want of targets, or because the plain answer is all there is
    plain: float = 0.0  # of the plain answer
    asked: float = 0.0  # of the answer that is asked for the outcome


@dataclass(frozen=True, eq=False)
class OutcomeHeads:
    """The heads of O outcomes over vectors of width D, each of rank R."""

    fits: tuple[OutcomeFit, ...]  # O
    down: NDArray[np.float32]  # (O, R, D)
    up: NDArray[np.float32]  # (O, D, R)
    shift: NDArray[np.float32]  # (O, D)

    def __post_init__(self) -> None:
        """Raises ValueError for arrays that do not fit each other, or are not finite."""
        num_heads, rank, dim = self.down.shape
        shapes = self.up.shape == (num_heads, dim, rank), self.shift.shape == (num_heads, dim)
        if not all(shapes) or num_heads != len(self.fits) or len({*self.names}) < num_heads:
            raise ValueError("the heads of the outcomes do not fit each other")
        if not all(np.isfinite(part).all() for part in (self.down, self.up, self.shift)):
            raise ValueError("a head of an outcome is not finite")

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(fit.name for fit in self.fits)

    @property
    def dim(self) -> int:
        """D."""
        return int(self.down.shape[2])

    def vectors(self, name: str, plain: NDArray[np.float32]) -> NDArray[np.float32]:
        """(Q, D) the query vectors of one user for an outcome, from the plain ones. Raises ValueError for another."""
        number = self.names.index(name)
        # one user a call: a product of many rows would round each by its neighbours
        moved: NDArray[np.float32] = (plain @ self.down[number].T) @ self.up[number].T + self.shift[number]
        return plain + moved

    @property
    def facts(self) -> list[dict[str, Any]]:
        """The fits as JSON."""
        return [asdict(fit) for fit in self.fits]


def check_outcomes(wanted: Sequence[str], known: Sequence[str]) -> None:
    """Raises ValueError, in one sentence, for an outcome that is not known."""
    missing = [name for name in wanted if name not in known]
    if not missing:
        return
    if not known:
        raise ValueError(
            f"{missing[0][:64]!r} is no outcome of it: its training knew none (`recall prepare --outcome` marks them)"
        )
    raise ValueError(f"{missing[0][:64]!r} is no outcome of it; there are {', '.join(known)}")
