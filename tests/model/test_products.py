"""Products of few rows: the bits of the same rows among many."""

from contextlib import nullcontext

import pytest
import torch
from torch.nn import functional as F

from model.products import LEAST, LONG, by_onednn, has_onednn, products, reordered

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


@pytest.fixture
def long():
    return torch.randn(5, LONG, 64, generator=torch.Generator().manual_seed(3))


@pytest.mark.skipif(not has_onednn(), reason="this processor has no AVX-512, or torch no oneDNN")
def test_large_products_are_those_of_onednn(states, table, long, monkeypatch):
    calls = []
    monkeypatch.setattr("model.products.by_onednn", lambda *given: calls.append(given) or by_onednn(*given))
    many, bias = table.repeat(10, 1), torch.arange(130.0)
    with products(CPU, 8):
        whole = long.flatten(0, 1).mm(table.T).view(5, LONG, 130) + bias
        torch.testing.assert_close(F.linear(long, table, bias), whole)
        torch.testing.assert_close(states @ many.T, states.mm(table.T).repeat(1, 10))
        assert len(calls) == 2  # each comparison's left side
        # fewer tokens, a smaller table, one that is not stored row by row
        F.linear(long[:, 1:], table)
        F.linear(states, table)
        states @ torch.ones(64, 2000)
        assert len(calls) == 2


@pytest.mark.skipif(not has_onednn(), reason="this processor has no AVX-512, or torch no oneDNN")
@pytest.mark.parametrize("dim", [64, 96, 256])
def test_onednn_gives_a_row_the_same_bits_among_many(dim):
    rows, weight = torch.randn(16, LONG, dim), torch.randn(64, dim)
    with products(CPU, 16):
        whole = F.linear(rows, weight)
        assert all(torch.equal(F.linear(rows[:size], weight), whole[:size]) for size in (1, 2, 4, 8))
        table = torch.randn(1500, dim)
        scores = rows[:, 0] @ table.T
    for size in (1, 2, 4, 8):
        with products(CPU, size):
            assert torch.equal(rows[:size, 0] @ table.T, scores[:size])
    assert torch.equal(by_onednn(rows[:4, 0].contiguous(), reordered(table, 16)), scores[:4])


def test_without_onednn_the_products_are_torchs_own(states, table, monkeypatch):
    monkeypatch.setattr("model.products.has_onednn", lambda: False)
    many = table.repeat(10, 1)
    with products(CPU, 1):
        assert torch.equal(states[:1] @ many.T, (states @ many.T)[:1])
    assert isinstance(products(CPU, LEAST), nullcontext)
