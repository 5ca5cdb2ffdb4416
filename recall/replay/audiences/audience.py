"""The users of a replay and their reactions: what a simulator has to know, and nothing of services.

Items and users are external ids throughout. A reaction depends on user, item and seed alone, never on the arm that
showed the item: both arms meet the same people (common random numbers).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

PLAYS, WATCHED, VIEWED = "plays", "watch_time_s", "view_time_s"
# metric -> action of the API, beside a play
ACTIONS = {"likes": "like", "comments": "comment", "follows": "follow", "shares": "share"}
OF_LIST = "_list_"  # between `plays` and the number of a list: how a lift comes about
EXPECTED = "_expected"  # ends the name of a metric's probability under the model
Ids = NDArray[np.int64]
Numbers = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Past:
    """A user's doings before the replay begins; the service is told of the plays."""

    plays: Sequence[int]  # items, oldest first
    seen: Sequence[int] = ()  # items that the client shall not show again, beside the plays
    plays_before: float = 0.0  # the covariate of CUPED
    signals: Mapping[str, int] = field(default_factory=dict)  # of each play, by which training took it for a positive


@dataclass(frozen=True, slots=True)
class Reactions:
    """Reactions to K shown items, one value a pair of user and item."""

    plays: NDArray[np.bool_]  # (K,) views that training would take as positives
    view_ms: Numbers  # (K,) time watched, of plays and of other views
    duration_ms: Numbers  # (K,)
    actions: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)  # metric -> (K,); on plays alone
    expected: Mapping[str, Numbers] = field(default_factory=dict)  # metric -> (K,) its chance under the model
    is_real: NDArray[np.bool_] | None = None  # (K,) read from a log; None = all are
    modelled: Numbers | None = None  # (K,) the chance of a play under the model, of pairs of the log too

    def sums(self) -> dict[str, Numbers]:
        """Adds up nothing yet: metric -> (K,), one value a pair."""
        drawn = {name: values.astype(np.float64) for name, values in self.actions.items()}
        counts = {PLAYS: self.plays.astype(np.float64), WATCHED: self.view_ms * self.plays / 1e3}
        real = np.ones(len(self.plays)) if self.is_real is None else self.is_real.astype(np.float64)
        chances = {name + EXPECTED: values for name, values in self.expected.items()}
        # where both are known: does the model see the pairs that an arm chooses as they are?
        met = {} if self.modelled is None else {"real_plays": real * self.plays, "real_modelled": real * self.modelled}
        return {**counts, VIEWED: self.view_ms / 1e3, **drawn, **chances, "real": real, **met}


class Audience(Protocol):
    """Everybody who takes part, and the data set that the arms are trained on."""

    @property
    def name(self) -> str: ...

    @property
    def users(self) -> Ids:
        """The users who take part, in the order in which they arrive."""
        ...

    def metrics(self) -> Sequence[str]:
        """Names of the metrics that are judged; the first is the primary one."""
        ...

    def rules(self, dropped: int) -> Mapping[str, Any]:
        """Fields of a request that say what may be shown, without the `dropped` most popular items."""
        ...

    def past(self, user: int) -> Past: ...

    def calibrations(self) -> Mapping[str, Sequence[tuple[float, float]]]:
        """Metric -> (modelled, observed) rate by fifths of unseen pairs; nothing where nothing is modelled."""
        ...

    def react(self, users: Ids, items: Ids) -> Reactions:
        """Reactions of users[k] to items[k]."""
        ...
