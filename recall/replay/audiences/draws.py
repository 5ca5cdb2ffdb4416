"""Random numbers by name: one uniform number for each (seed, user, item, purpose), whoever asks and whenever.

SplitMix64 (Steele, Lea and Flood 2014) as a hash: a generator with a state would make a reaction depend on the order in
which users arrive and on what was shown to others.
"""

import numpy as np
from numpy.typing import NDArray

GOLDEN, FIRST, SECOND = (np.uint64(n) for n in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
SHIFTS = tuple(np.uint64(n) for n in (30, 27, 31))
DIGITS = np.uint64(11)  # 53 bits are left, as many as a double holds


def mix(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One step of SplitMix64: a permutation of 64-bit words in which every bit depends on every bit."""
    with np.errstate(over="ignore"):
        words = words + GOLDEN
        words = (words ^ (words >> SHIFTS[0])) * FIRST
        words = (words ^ (words >> SHIFTS[1])) * SECOND
    return words ^ (words >> SHIFTS[2])


def uniform(seed: int, purpose: int, users: NDArray[np.int64], items: NDArray[np.int64]) -> NDArray[np.float64]:
    """(K,) numbers in [0, 1), one a pair."""
    words = np.full(len(users), seed, dtype=np.uint64)
    for part in (np.full(len(users), purpose), users, items):
        # one after the other: a sum of the parts would give (1, 2) and (2, 1) the same number
        words = mix(words ^ part.astype(np.uint64))
    return (words >> DIGITS).astype(np.float64) / 2.0**53
