"""Products inside `invariant()` against torch's own."""

import torch
from torch import nn

from model.kernels.invariant import batched, invariant


def test_products_of_any_strides(draw):
    a, b = draw(3, 5, 7), draw(3, 9, 7)
    torch.testing.assert_close(batched(a, b.mT), a @ b.mT)
    torch.testing.assert_close(batched(a.mT, draw(3, 5, 4)[:, :, ::2]).shape, torch.Size([3, 7, 2]))


@torch.no_grad()
def test_a_network_inside_gives_what_it_gives_outside(draw, device):
    network = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4, bias=False)).to(device)
    x, start = draw(6, 3, 8), draw(2, 3, 5)
    with invariant():
        inside, added = network(x), torch.baddbmm(start, x[:2], draw(2, 8, 5) * 0 + 1, beta=0.5, alpha=2)
        whole = torch.arange(6).view(2, 3) @ torch.arange(3)
    torch.testing.assert_close(inside, network(x))
    torch.testing.assert_close(added, 0.5 * start + 2 * x[:2].sum(2, keepdim=True))
    assert whole.tolist() == [5, 14]
