"""Training batches: windows of every history, similar lengths together, so that little is padding."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from model.batch import Batch
from model.data.sequences import SequenceData

SHUFFLE_BATCHES = 16  # lengths are sorted within windows of this many batches: order stays random, padding small


@dataclass(frozen=True)
class TrainingWindows:
    """Training sequences cut to what the network can see; longer histories give several."""

    rows: list[NDArray[np.int32]]
    users: NDArray[np.int64]
    lengths: NDArray[np.int64]  # items of a row; of a prefix those up to its first target
    num_behind: int = 0  # places for the further targets of a prefix, which follow in its row as far as there are any
    chances: NDArray[np.float64] | None = None  # of each row to be in an epoch; None = all are

    @classmethod
    def prefixes(cls, data: SequenceData, max_length: int, window: int = 1, repeats: bool = True) -> "TrainingWindows":
        """Every start of every sequence, cut to its newest max_length + 1 items; each one's last item is its target.

        window: targets a prefix; those after the first stand behind its length. repeats: those whose target stands
        before itself too.
        """
        rows: list[NDArray[np.int32]] = []
        users: list[int] = []
        lengths: list[int] = []
        for user in range(1, len(data.train) + 1):
            sequence = data.train[user - 1]
            for stop in range(1, len(sequence) + 1):
                start = max(0, stop - max_length - 1)
                if not repeats and sequence[stop - 1] in sequence[start : stop - 1]:
                    continue
                rows.append(sequence[start : stop + window - 1])
                users.append(user)
                lengths.append(stop - start)
        return cls(rows, np.array(users, dtype=np.int64), np.array(lengths, dtype=np.int64), window - 1)

    @classmethod
    def of(cls, data: SequenceData, max_length: int) -> "TrainingWindows":
        """Windows of max_length + 1 items (inputs and last target), cut from the newest end."""
        rows: list[NDArray[np.int32]] = []
        users: list[int] = []
        for user in range(1, len(data.train) + 1):
            sequence = data.train[user - 1]
            # from the newest end, so that the last window is what serving sees
            for stop in range(len(sequence), 0, -(max_length + 1)):
                rows.append(sequence[max(0, stop - max_length - 1) : stop])
                users.append(user)
        lengths = np.array([len(row) for row in rows], dtype=np.int64)
        return cls(rows, np.array(users, dtype=np.int64), lengths)

    def with_chances(self, of_users: NDArray[np.float64]) -> "TrainingWindows":
        """The same windows, each in an epoch by the chance (U,) of its user, drawn anew for every epoch."""
        return replace(self, chances=of_users[self.users - 1])

    def mean_positions(self, batch_users: int) -> float:
        """Items in a batch, on average over an epoch."""
        chances = np.ones(len(self.rows)) if self.chances is None else self.chances
        return float(chances @ self.lengths / math.ceil(chances.sum() / batch_users))

    def batches(self, batch_users: int, rng: np.random.Generator) -> Iterator[Batch]:
        """One epoch in a fresh random order."""
        sizes = np.array([len(row) for row in self.rows])
        # padding to the longest would waste most of the work on these data: median length 6, longest 50
        order = rng.permutation(len(sizes) if self.chances is None else _drawn(self.chances, rng))
        cuts = []
        for start in range(0, len(order), batch_users * SHUFFLE_BATCHES):
            window = order[start : start + batch_users * SHUFFLE_BATCHES]
            window = window[np.argsort(self.lengths[window], kind="stable")]
            cuts += [window[i : i + batch_users] for i in range(0, len(window), batch_users)]
        # else lengths would rise within every window of batches
        rng.shuffle(cuts)
        for cut in cuts:
            lengths = self.lengths[cut]
            taken = np.arange(lengths.max() + self.num_behind) < sizes[cut, None]  # (B, L)
            rows = np.zeros(taken.shape, dtype=np.int64)
            # one copy a batch: row by row it takes a tenth of an epoch of prefixes
            rows[taken] = np.concatenate([self.rows[i] for i in cut.tolist()])
            yield Batch(torch.from_numpy(rows), torch.from_numpy(lengths), torch.from_numpy(self.users[cut]))


def _drawn(chances: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    drawn = np.flatnonzero(rng.random(len(chances)) < chances)
    # of a handful of rows none may be drawn, and an epoch without a step would be measured as if it had taught
    return drawn if len(drawn) else np.arange(len(chances))
