"""Team draft: one list out of two, in which each item belongs to the team whose list it was taken from.

Two teams take turns in pairs; a coin says who begins each pair, and each takes the best item of its list that is not
taken yet (Radlinski, Kurup and Joachims 2008). So what is seen first is seen first of both teams equally often, and a
user who prefers one team's items shows it within one list. Knows items as names alone.
"""

import random
from collections.abc import Hashable, Sequence
from hashlib import blake2b
from typing import NamedTuple


class Draft(NamedTuple):
    """The mixed list, best first: of each item the team, 0 or 1, and its place in that team's list."""

    teams: tuple[int, ...]
    places: tuple[int, ...]


def seed_of(*parts: str) -> int:
    """The same number for the same texts, in every process."""
    return int.from_bytes(blake2b("\0".join(parts).encode(errors="surrogatepass"), digest_size=8).digest())


def draft(lists: tuple[Sequence[Hashable], Sequence[Hashable]], limit: int, seed: int) -> Draft:
    """Up to `limit` items of both lists, each once. Where one list has no more, the other goes on alone."""
    coin = random.Random(seed)
    taken: set[Hashable] = set()
    teams: list[int] = []
    places: list[int] = []
    following = [0, 0]  # the place at which each team looks next
    while len(teams) < limit:
        first = coin.getrandbits(1)
        before = len(teams)
        for team in (first, 1 - first):
            items = lists[team]
            while following[team] < len(items) and items[following[team]] in taken:
                following[team] += 1
            if following[team] < len(items) and len(teams) < limit:
                taken.add(items[following[team]])
                teams.append(team)
                places.append(following[team])
        # neither team has an item left
        if len(teams) == before:
            break
    return Draft(tuple(teams), tuple(places))
