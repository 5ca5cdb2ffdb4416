"""Linear layers, with and without what is fused to them, against fp64."""

import pytest
import torch
from torch.nn import functional as F

from model.kernels.halves import raise_by, split
from model.kernels.linear import Affine, Norm, Tile, feed_forward, linear, linear_norm
from model.kernels.packed import Packed

# rows, width in, width out; odd ones too
SHAPES = [(5, 24, 40), (70, 128, 96), (33, 20, 20)]


def error(numbers, expected):
    return ((numbers.double() - expected).abs().max() / expected.abs().max()).item()


def affine(draw, x, width):
    weight, bias = 0.05 * draw(width, x.shape[1]), 0.1 * draw(width)
    layer = Affine.of(weight, bias, float(x.abs().max()), float(x.norm(dim=1).max()))
    return layer, x.double() @ weight.double().T + bias.double()


def normed(numbers, norm):
    return F.layer_norm(numbers, norm.weight.shape) * norm.weight.double() + norm.bias.double()


@pytest.mark.parametrize(("rows", "inner", "width"), SHAPES)
def test_linear_layers_keep_the_precision_of_fp32(draw, rows, inner, width):
    x = draw(rows, inner)
    layer, expected = affine(draw, x, width)
    assert error(linear(x, layer), expected) < 1e-6
    assert error(linear(x, layer, gelu=True), F.gelu(expected)) < 1e-6
    assert expected.abs().max() <= layer.bound


@pytest.mark.parametrize(("rows", "inner", "width"), SHAPES)
def test_normalised_after_what_came_before_is_added(draw, rows, inner, width):
    x, before, norm = draw(rows, inner), draw(rows, width), Norm(draw(width), draw(width))
    layer, expected = affine(draw, x, width)
    numbers = linear_norm(x, layer, before, norm)
    assert error(numbers, normed(before.double() + expected, norm)) < 1e-6
    assert numbers.abs().max() <= norm.largest
    assert numbers.norm(dim=1).max() <= norm.longest


@pytest.mark.parametrize(("rows", "dim"), [(5, 24), (33, 20)])
def test_feed_forward(draw, rows, dim):
    x, norm = draw(rows, dim), Norm(draw(dim), draw(dim))
    first, hidden = affine(draw, x, 4 * dim)
    second, expected = affine(draw, F.gelu(hidden).float(), dim)
    assert error(feed_forward(x, first, second, norm), normed(x.double() + expected, norm)) < 1e-6


def test_rows_that_are_not_in_use_are_left_alone(draw, device):
    x = draw(200, 16)
    layer, expected = affine(draw, x, 16)
    given = torch.tensor([[0, 0, 0, 70]], dtype=torch.int32, device=device)  # length, user, start, total
    assert error(linear(x, layer, Packed(given, 1))[:70], expected[:70]) < 1e-6


@pytest.mark.parametrize("tile", [Tile(64, 64, 128, 4, 2), Tile(128, 64, 128, 8, 2)])
def test_rows_and_columns_of_a_tile_do_not_change_much(draw, tile):
    x = draw(9, 32)
    layer, expected = affine(draw, x, 48)
    assert error(linear(x, layer, tile=tile), expected) < 1e-6


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_halves_keep_22_bits_at_any_scale(draw, scale):
    matrix = scale * draw(30, 20)
    high, low, unit = split(matrix)
    assert ((high.double() + low.double()) * unit - matrix.double()).abs().max() < 2.0**-21 * matrix.abs().max()


@pytest.mark.parametrize(("bound", "power"), [(1.0, 2.0**14), (3.0, 2.0**12), (0.0, 1.0), (float("inf"), 1.0)])
def test_numbers_are_raised_by_a_power_of_two(bound, power):
    assert raise_by(bound) == power
