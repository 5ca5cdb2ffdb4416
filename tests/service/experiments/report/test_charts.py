"""Places of marks: within the chart, in the order of the values, labels apart."""

import math
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.experiments.report.charts import (
    Scale,
    forest_scale,
    nice_step,
    scale_of,
    spread,
    time_ticks,
    whiskers_of,
)

NUMBERS = st.floats(-1e9, 1e9, allow_subnormal=False)


@given(st.lists(NUMBERS, min_size=1), NUMBERS)
def test_every_value_has_a_place_on_the_chart(values, other):
    scale = scale_of(values)
    assert 0 <= scale.at(other) <= 100
    places = [scale.at(value) for value in sorted(values)]
    assert places == sorted(places)


def test_scale_holds_zero_and_passes_over_what_is_not_finite():
    scale = scale_of([0.2, 0.4, math.inf, math.nan])
    assert scale.low < 0
    assert 0.4 < scale.high < 1


@given(st.floats(1e-9, 1e9))
def test_steps_are_round_and_not_too_small(least):
    step = nice_step(least)
    assert least * (1 - 1e-9) <= step <= 5 * least
    assert round(step / 10 ** math.floor(math.log10(step) + 1e-9)) in {1, 2, 5, 10}


@given(NUMBERS, st.floats(1e-3, 1e6))
def test_ticks_lie_on_the_scale(low, width):
    ticks = Scale(low, low + width).ticks(str)
    assert len(ticks) <= 8
    assert [tick.at for tick in ticks] == sorted(tick.at for tick in ticks)


@given(st.lists(st.floats(0, 100), min_size=1, max_size=8))
def test_labels_are_moved_apart_in_their_order(places):
    moved = spread(places, 9.0)
    order = sorted(range(len(places)), key=places.__getitem__)
    gaps = [moved[after] - moved[before] for before, after in pairwise(order)]
    assert all(gap >= 8.98 for gap in gaps)
    assert max(moved) <= 100


def test_labels_that_do_not_meet_stay():
    assert spread([10.0, 80.0, 40.0], 9.0) == [10.0, 80.0, 40.0]


@pytest.mark.parametrize(
    ("minutes", "form"), [(5, r"..:..:.."), (60, r"..:.."), (2_000, r".. ... ..:.."), (9_000, r".. ...")]
)
def test_times_are_told_as_finely_as_they_differ(minutes, form):
    labels = [tick.label for tick in time_ticks(Scale(0, 60_000 * minutes))]
    assert all(re.fullmatch(form, label) for label in labels)
    assert len({*labels}) == 4


def test_a_rare_metric_does_not_flatten_the_others():
    scale = forest_scale([(-0.02, 0.06), (-5.0, 5.0)])
    assert scale.high == pytest.approx(0.24 * 1.12)
    whiskers = whiskers_of(scale, 0.1, (-4.0, 4.0), (-5.0, 5.0))
    assert (whiskers.cut_low, whiskers.cut_high, whiskers.wide) == (True, True, (0.0, 100.0))
