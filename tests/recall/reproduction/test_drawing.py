"""The look of figures: labels that do not cover each other, greys alone, files that repeat."""

from itertools import pairwise

import pytest

from recall.reproduction import drawing
from recall.reproduction.drawing import spread


@pytest.mark.parametrize(
    ("heights", "expected"),
    [
        ([], []),
        ([0.5], [0.5]),
        ([0.1, 0.9], [0.1, 0.9]),
        ([0.5, 0.5], [0.45, 0.55]),
        ([0.0, 0.0, 0.0], [0.0, 0.1, 0.2]),
        ([0.98, 1.0], [0.9, 1.0]),
        # what is moved apart may touch the next: then they move together
        ([0.4, 0.4, 0.46], [0.32, 0.42, 0.52]),
    ],
)
def test_labels_keep_a_gap_and_their_order(heights, expected):
    assert spread(heights, 0.1) == pytest.approx(expected)


def test_more_labels_than_room_keep_the_gap():
    placed = spread([0.5] * 20, 0.1)
    assert [b - a for a, b in pairwise(placed)] == pytest.approx([0.1] * 19)


def test_a_figure_is_grey_small_and_the_same_each_time(tmp_path):
    image = pytest.importorskip("PIL.Image", reason="matplotlib is not installed, which brings it")
    paths = []
    for name in ("a", "b"):
        canvas = drawing.canvas("Lines", num_panels=2)
        drawing.draw_lines(canvas.panels[0], {"one": [(1, 1), (2, 3)], "two": [(1, 2), (2, 3)]}, log="x")
        paths.append(canvas.save(tmp_path / "new" / f"{name}.png"))
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with image.open(paths[0]) as drawn:
        assert drawn.width == 960
        assert all(red == green == blue for _, (red, green, blue) in drawn.convert("RGB").getcolors())
