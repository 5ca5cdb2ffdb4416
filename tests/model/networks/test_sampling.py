"""Hidden users: a share of them while training, nobody otherwise."""

import pytest
import torch

from model.networks.sampling import hide_users

USERS = torch.arange(1, 2001)


def test_a_share_of_the_users_is_hidden_while_training():
    torch.manual_seed(0)
    hidden = hide_users(USERS, 0.3, training=True)
    assert abs(float((hidden == 0).float().mean()) - 0.3) < 0.05
    assert torch.equal(hidden[hidden > 0], USERS[hidden > 0])


@pytest.mark.parametrize(("share", "training"), [(0.3, False), (0.0, True)])
def test_otherwise_nobody_is_hidden_and_nothing_is_drawn(share, training):
    state = torch.get_rng_state()
    assert torch.equal(hide_users(USERS, share, training), USERS)
    assert torch.equal(torch.get_rng_state(), state)
