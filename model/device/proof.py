"""Lists of a lane against the general path's, and its bits against those of another size: what decides at start."""

from itertools import islice

import numpy as np
from numpy.typing import NDArray

from model.columns import Columns
from model.device.chain import MAX_LIMIT
from model.device.lane import Lane
from model.device.layout import Answers
from model.networks.base import Network
from model.records import History

SAME = 0.99  # share of probes whose lists must be the same, item by item
NEAR = 1e-4  # of the largest score: what rounding may make of it; items that swap are as near as that
SMALL_BATCHES = 32  # of a small size that are compared


def probes(network: Network, count: int, seed: int = 0) -> Columns:
    """Random histories of every length; lists of the longest and other lengths; histories excluded, and more."""
    draws, config = np.random.default_rng(seed), network.config
    rows = [tuple(draws.integers(1, config.num_items + 1, draws.integers(0, config.max_length + 1)).tolist())
            for _ in range(count)]  # fmt: skip
    histories = [History(items, int(draws.integers(0, config.num_users + 1))) for items in rows]
    most = min(MAX_LIMIT, config.num_items - 1)
    limits = [most if number % 4 else int(draws.integers(1, most + 1)) for number in range(count)]
    more = draws.integers(1, config.num_items + 1, (count, 5)).tolist()
    excluded = [
        history.items if number % 2 else frozenset([*history.items, *more[number]])
        for number, history in enumerate(histories)
    ]
    return Columns.of(histories, limits, excluded)


def answer(lane: Lane, columns: Columns) -> Answers:
    """A copy of the lane's answers."""
    lane.fill(columns)
    lane.start()
    return lane.copied(columns.size)


def _same(ours: Answers, theirs: Answers) -> NDArray[np.bool_]:
    """(B,) true where a list is the same, sources included; what is in doubt is the general path's own."""
    lists = (ours.rows == theirs.rows).all(1) & ((ours.sources == theirs.sources) | (ours.rows == 0)).all(1)
    same: NDArray[np.bool_] = lists | (ours.doubtful != 0)
    return same


def share_of_same(ours: Answers, theirs: Answers) -> float:
    return float(_same(ours, theirs).mean())


def difference(ours: Answers, theirs: Answers) -> str:
    """Says how lists differ beyond near ties; empty where they do not."""
    same = _same(ours, theirs)
    if same.mean() < SAME:
        return f"{(~same).sum()} of {len(same)} probes have other lists than the general path's"
    largest = np.abs(theirs.scores).max()
    far = np.abs(ours.scores - theirs.scores).max(1) > NEAR * largest
    # a generated item that was as near as rounding changes all that follows it
    generated = (ours.prompts == theirs.prompts).all(1)
    if (wrong := far & generated & (ours.doubtful == 0)).any():
        return f"scores of {wrong.sum()} of {len(same)} probes differ by more than rounding"
    return ""


def same_bits(lane: Lane, columns: Columns, theirs: Answers) -> bool:
    """Tells if a lane gives the answers of another size to the last bit."""
    size = lane.size
    starts = range(0, columns.size - size + 1, size)
    for start in islice(starts, SMALL_BATCHES):
        part = slice(start, start + size)
        ours = answer(lane, columns.part(part))
        if not ours.equals(theirs.part(part)):
            return False
    return True
