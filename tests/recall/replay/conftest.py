"""A made-up audience over the tiny bundles: everybody's preference for every item is known."""

import numpy as np
import pytest

from recall.replay.audiences.audience import Past, Reactions
from recall.replay.audiences.draws import uniform

STRANGERS = 9_000_000  # ids that no other test asks for


class MadeUpAudience:
    """Users who play a third of all items, and like a part of what they play."""

    name = "made-up"

    def __init__(self, items, num_users=120):
        self.users = STRANGERS + np.random.default_rng(4).permutation(num_users)
        self._items = items

    def metrics(self):
        return ("plays", "watch_time_s", "likes", "view_time_s")

    def rules(self, dropped):
        assert not dropped
        return {}

    def past(self, user):
        plays = [self._items[(user * 7 + 13 * n) % len(self._items)] for n in range(user % 4)]
        return Past(plays, [self._items[user % len(self._items)]], float(len(plays)))

    def react(self, users, items):
        plays = uniform(1, 0, users, items) < 1 / 3
        likes = plays & (uniform(1, 1, users, items) < 1 / 2)
        times = np.where(plays, 9_000.4, 1_000.0)
        return Reactions(plays, times, np.full(len(items), 10_000.0), {"likes": likes})


@pytest.fixture(scope="session")
def made_up(known):
    return MadeUpAudience(known)
