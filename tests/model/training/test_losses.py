"""The chunked softmax in bf16 against F.cross_entropy in fp32."""

import pytest
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from model.generation.greedy import ROWS_STEP, soft_items
from model.training.losses import CHUNK_ROWS, catalogue_cross_entropy, target_shares

CHUNK = CHUNK_ROWS["cpu"]


def problem(num_rows, *num_queries, num_items=80, dim=16):
    """One query vector a row, or num_queries."""
    generator = torch.manual_seed(num_rows)
    states = torch.randn(num_rows, *num_queries, dim, generator=generator, requires_grad=True)
    table = torch.randn(num_items, dim, generator=generator, requires_grad=True)
    return states, table, torch.randint(num_items, (num_rows,), generator=generator)


@pytest.fixture(
    params=[(1,), (7,), (CHUNK - 1,), (CHUNK,), (2 * CHUNK + 88,), (1, 3), (CHUNK, 1), (CHUNK + 9, 3)], ids=str
)
def parts(request):
    return problem(*request.param)


def plain(states, table, targets):
    scores = states @ table.T
    return F.cross_entropy(scores.amax(1) if scores.dim() == 3 else scores, targets)


def test_value_is_the_cross_entropy(parts):
    torch.testing.assert_close(catalogue_cross_entropy(*parts), plain(*parts), rtol=1e-2, atol=0)


def test_gradients_are_those_of_the_cross_entropy(parts):
    states, table, _ = parts
    # where two query vectors are equally near in bf16 but not in fp32, the gradient goes to both
    limit = 1e-2 if states.dim() == 2 else 5e-2
    ours = torch.autograd.grad(catalogue_cross_entropy(*parts), [states, table])
    expected = torch.autograd.grad(plain(*parts), [states, table])
    for gradient, wanted in zip(ours, expected, strict=True):
        assert (gradient - wanted).norm() < limit * wanted.norm()
        assert F.cosine_similarity(gradient.flatten(), wanted.flatten(), 0) > 0.999


@pytest.mark.parametrize(("target", "nearest"), [(0, 0), (2, 1)])
def test_only_the_query_vector_nearest_to_the_target_learns_it(target, nearest):
    queries = torch.tensor([[[9.0, 0.0], [0.0, 3.0]]], requires_grad=True)
    table = torch.tensor([[1.0, 0.0], [0.0, 0.5], [0.0, 1.0]])
    (gradient,) = torch.autograd.grad(catalogue_cross_entropy(queries, table, torch.tensor([target])), queries)
    assert gradient[0, nearest] @ table[target] < 0
    assert gradient[0, 1 - nearest] @ table[target] == 0


@pytest.mark.parametrize("num_queries", [(), (3,)])
def test_a_window_is_the_cross_entropy_with_its_shares(num_queries):
    states, table, _ = problem(CHUNK + 9, *num_queries)
    targets = torch.randint(0, len(table) + 1, (len(states), 4))
    targets[:, 0] = 1 + torch.arange(len(states)) % len(table)
    targets[5] = 7  # the same item four times
    shares = target_shares(targets, 0.5)
    wanted = torch.zeros(len(states), len(table) + 1).scatter_add_(1, targets, shares)[:, 1:]
    scores = states @ table.T
    expected = F.cross_entropy(scores.amax(1) if num_queries else scores, wanted)
    loss = catalogue_cross_entropy(states, table, (targets - 1).clamp(min=0), shares)
    torch.testing.assert_close(loss, expected, rtol=1e-2, atol=0)
    ours, theirs = (torch.autograd.grad(value, [states, table]) for value in (loss, expected))
    for gradient, right in zip(ours, theirs, strict=True):
        assert (gradient - right).norm() < (5e-2 if num_queries else 1e-2) * right.norm()


@pytest.mark.parametrize("num_queries", [(), (3,)])
@pytest.mark.parametrize("num_rows", [1, CHUNK + 9])
def test_items_that_were_seen_are_not_ranked(num_rows, num_queries):
    states, table, targets = problem(num_rows, *num_queries)
    seen = torch.randint(0, len(table) + 1, (num_rows, 6))  # 0 = none; the same item twice does no harm
    seen[seen == targets[:, None] + 1] = 0
    scores = states @ table.T
    hidden = torch.zeros(num_rows, len(table) + 1, dtype=torch.bool).scatter_(1, seen, True)[:, 1:]
    scores = (scores.amax(1) if num_queries else scores).masked_fill(hidden, -torch.inf)
    expected = F.cross_entropy(scores, targets)
    loss = catalogue_cross_entropy(states, table, targets, seen=seen)
    torch.testing.assert_close(loss, expected, rtol=1e-2, atol=0)
    ours, theirs = (torch.autograd.grad(value, [states, table]) for value in (loss, expected))
    for gradient, right in zip(ours, theirs, strict=True):
        assert (gradient - right).norm() < (5e-2 if num_queries else 1e-2) * right.norm()


def test_shares_decay_with_the_distance_and_sum_to_one():
    shares = target_shares(torch.tensor([[4, 9, 2], [4, 9, 0], [4, 0, 0]]), 0.5)
    expected = [[4 / 7, 2 / 7, 1 / 7], [2 / 3, 1 / 3, 0], [1, 0, 0]]
    torch.testing.assert_close(shares, torch.tensor(expected))


def test_gradient_scales_with_what_follows():
    states, table, targets = problem(9)
    once = torch.autograd.grad(catalogue_cross_entropy(states, table, targets), states)[0]
    thrice = torch.autograd.grad(3 * catalogue_cross_entropy(states, table, targets), states)[0]
    torch.testing.assert_close(thrice, 3 * once)


def test_gradient_reaches_the_items_through_a_slice():
    """Ranks as training does: the table that ranks is rows 1..N of the embedding."""
    states, weight, _ = problem(9)
    (gradient,) = torch.autograd.grad(catalogue_cross_entropy(states, weight[1:-1], torch.arange(9)), weight)
    assert gradient[[0, -1]].abs().max() == 0
    assert gradient[1:-1].abs().min() > 0


class Products(TorchDispatchMode):
    """Keeps the numbers of rows of all products of two matrices."""

    def __init__(self):
        super().__init__()
        self.num_rows = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func.overloadpacket is torch.ops.aten.mm:
            self.num_rows.add(len(args[0]))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("num_queries", [(), (3,)])
def test_products_have_few_shapes_however_many_rows_there_are(num_queries):
    """Each shape stays compiled for the life of the process, and a training has batches of every size."""
    with Products() as products:
        for num_rows in range(1, 2 * CHUNK, 37):
            catalogue_cross_entropy(*problem(num_rows, *num_queries)).backward()
            soft_items(torch.randn(1, num_rows, 16), torch.randn(80, 16), 1.0)
    steps = products.num_rows - {80}  # the item table's side of a gradient
    assert steps
    assert {rows % ROWS_STEP for rows in steps} == {0}


def test_large_scores_stay_finite():
    states, table, targets = problem(20)
    loss = catalogue_cross_entropy(200 * states, table, targets)
    loss.backward()
    assert loss.isfinite()
    assert states.grad.isfinite().all()
