"""Exact search: maxima, selection, scores, order, against all scores in fp64; ties, excluded items, doubts."""

import pytest
import torch

from model.kernels.blocks import BLOCK, decode, num_blocks, rows_of
from model.kernels.maxima import FAN, block_maxima
from model.kernels.score import Excluded, Range
from model.kernels.search import Table, best_rows, search, search_all
from model.kernels.select import select, select_below, select_keys

SIZES = [(3, 300, 20, 5, 0), (2, 700, 33, 20, 7), (4, 64, 128, 64, 3), (70, 130, 16, 3, 0)]


def test_blocks_hold_every_item_once():
    rows = rows_of(torch.arange(num_blocks(300))).flatten()
    assert sorted(rows.tolist()) == list(range(num_blocks(300) * BLOCK))


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(("queries", "items", "dim"), [(1, 1, 16), (3, 300, 64), (5, 257, 100), (130, 520, 24)])
def test_maxima_of_blocks_and_tiles(draw, queries, items, dim, half):
    asked, table = draw(queries, dim), Table.halved(draw(items, dim)) if half else Table.plain(draw(items, dim))
    maxima = block_maxima(asked, table.rough, with_tiles=True)
    rough = table.rough.double() if not half else table.rough.double() * table.doubt.unit
    scores = (asked.half() if half else asked).double() @ rough.T
    scores = torch.nn.functional.pad(scores, (0, maxima.blocks.shape[1] * BLOCK - scores.shape[1]), value=-torch.inf)
    expected = scores[:, rows_of(torch.arange(maxima.blocks.shape[1], device=scores.device))].amax(2)
    unit = table.doubt.unit if half else 1
    torch.testing.assert_close(maxima.blocks.double() * unit, expected, rtol=1e-5, atol=1e-4)
    padded = torch.nn.functional.pad(expected, (0, -expected.shape[1] % (FAN // BLOCK)), value=-torch.inf)
    tiles = padded.unflatten(1, (-1, FAN // BLOCK)).amax(2)
    torch.testing.assert_close(maxima.tiles.double() * unit, tiles, rtol=1e-5, atol=1e-4)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's
@pytest.mark.parametrize("whole", [False, True])
def test_the_highest_of_a_row_and_what_is_left(draw, whole):
    values = draw(6, 100, whole=whole)
    values[1, :90], values[2], values[3, :5], values[4, 7] = -torch.inf, -torch.inf, torch.inf, torch.nan
    chosen, order = (
        select(values, 20),
        values.where(~values.isnan(), -torch.inf).sort(dim=1, descending=True, stable=True),
    )
    assert torch.equal(chosen.places.sort(1).values.long(), order.indices[:, :20].sort(1).values)
    assert torch.equal(chosen.rest, order.values[:, 20].clamp(max=1e38))


def test_the_highest_among_the_children_of_selected_places(draw):
    values = draw(4, 60)
    above = select(values.view(4, 15, 4).amax(2), 6)
    below = select_below(values, above, 4, 6)
    assert torch.equal(below.places.sort(1).values.long(), values.topk(6).indices.sort(1).values)


def test_keys_that_tie_are_told_apart_by_their_row(device):
    keys = torch.arange(200, device=device).repeat(2, 1) - (5 << 32)
    assert torch.equal(select_keys(keys, 20)[:, :20].sort(1).values, keys[:, -20:])


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(("queries", "items", "dim", "k", "most"), SIZES)
def test_the_best_without_what_is_excluded(draw, device, queries, items, dim, k, most, half):
    asked, vectors = draw(queries, dim), draw(items, dim)
    table = Table.halved(vectors) if half else Table.plain(vectors)
    scores, excluded = asked.double() @ vectors.double().T, None
    if most:
        top = scores.topk(most).indices
        given = torch.cat([torch.full((queries, 1), most, device=device), top + 1], 1).int()
        scores.scatter_(1, top, -torch.inf)
        excluded = Excluded(given, Range(0, 1, most))
    keys, doubtful = search(asked, table, k, most, excluded)
    rows, values = decode(keys[:, :k])
    kept = min(k, items - most)
    expected = scores.topk(kept)
    assert torch.equal(rows[:, :kept], expected.indices + 1)
    assert not rows[:, kept:].any()
    torch.testing.assert_close(values[:, :kept].double(), expected.values, rtol=1e-5, atol=1e-5)
    assert not doubtful.any()
    assert torch.equal(search_all(asked, table, k, most, excluded)[:, :k], keys[:, :k])


def test_two_queries_of_a_user_share_what_is_excluded_and_both_ranges_count(draw, device):
    vectors = draw(200, 16)
    given = torch.tensor([[1, 3, 2, 8, 9], [0, 0, 1, 5, 0]], dtype=torch.int32, device=device)
    excluded = Excluded(given, Range(0, 1, 1), Range(2, 3, 2), 2)
    rows, _ = decode(search(draw(4, 16), Table.plain(vectors), 190, 3, excluded)[0][:, :190])
    assert not torch.isin(rows[:2], torch.tensor([3, 8, 9], device=device)).any()
    assert not (rows[2:] == 5).any()
    assert all((rows[2:] == row).any() for row in (3, 8, 9))


def test_ties_are_in_row_order_or_in_doubt(draw):
    asked, vectors = draw(8, 3, whole=True), draw(600, 3, whole=True)
    keys, doubtful = search(asked, Table.plain(vectors), 10)
    expected = (asked @ vectors.T).sort(dim=1, descending=True, stable=True).indices[:, :10] + 1
    sure = doubtful == 0
    assert torch.equal(decode(keys[:, :10])[0][sure], expected[sure])
    assert torch.equal(decode(search_all(asked, Table.plain(vectors), 10)[:, :10])[0], expected)


def test_items_that_rounding_hides_are_in_doubt(draw, device):
    vectors = 1 + 1e-5 * draw(2_000, 16)
    _, doubtful = search(torch.ones(2, 16, device=device), Table.halved(vectors), 5)
    assert doubtful.all()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # the interpreter's
def test_queries_that_overflow_are_in_doubt(draw):
    asked = draw(3, 16)
    asked[1] *= 1e6
    _, doubtful = search(asked, Table.halved(draw(400, 16)), 5)
    assert doubtful.tolist() == [0, 1, 0]


@pytest.mark.parametrize("items", [1, 15, 64, 1_000])
def test_the_first_of_the_highest(draw, items):
    states, table = draw(33, 8, whole=True), draw(items, 8, whole=True)
    assert torch.equal(best_rows(states, table).cpu(), (states.cpu() @ table.cpu().T).argmax(1))
