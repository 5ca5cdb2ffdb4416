"""Products of few rows: the bits of the same rows among many."""

import pytest
import torch
from torch.nn import functional as F

from model.products import LEAST, products

CPU = torch.device("cpu")


@pytest.fixture
def table():
    return torch.randn(130, 64, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def states():
    return torch.randn(16, 64, generator=torch.Generator().manual_seed(2))


FORMS = {
    "linear": F.linear,
    "at": lambda left, table: left @ table.T,
    "matmul": lambda left, table: torch.matmul(left, table.T),
    "mm": lambda left, table: torch.mm(left, table.T),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("num_rows", range(1, LEAST))
def test_a_row_has_the_bits_that_it_has_among_many(form, num_rows, states, table):
    whole = form(states, table)
    with products(CPU, num_rows):
        part = form(states[:num_rows], table)
    assert torch.equal(part, whole[:num_rows])


@pytest.mark.parametrize("shape", [(1, 1, 64), (3, 1, 64), (1, 3, 64), (1, 2, 64)])
def test_shapes_are_kept(shape, states, table):
    bias = torch.arange(130.0)
    left = states.flatten()[: shape[0] * shape[1] * 64].view(shape)
    with products(CPU, 1):
        product = F.linear(left, table, bias)
    assert product.shape == (*shape[:2], 130)
    assert torch.equal(product.flatten(0, 1), F.linear(states, table, bias)[: shape[0] * shape[1]])


def test_other_calls_are_torchs_own(states, table):
    with products(CPU, 1):
        assert torch.equal(states[:1].sum(1), states[:1].sum(1))
        assert (states[0] @ table.T).shape == (130,)
        assert (states[:0] @ table.T).shape == (0, 130)
        assert (states[:1, None] @ table.T.expand(1, -1, -1)).shape == (1, 1, 130)


def test_a_larger_pass_needs_nothing(states, table):
    with products(CPU, LEAST):
        assert torch.equal(states[:LEAST] @ table.T, (states @ table.T)[:LEAST])
