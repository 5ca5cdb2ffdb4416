"""Figures of a verdict as a reader sees them: signs, percents where they can be, and a dash where there is none."""

from io import StringIO

import pytest

from recall.experiments.verdict_table import lift_cells, narrow_table, show_interval, show_percent, show_signed
from recall.terminal import Console
from service.experiments.verdict.judge import Lift

LIFT = Lift(estimate=0.0123456, fixed=(-0.01, 0.0347), always_valid=(-0.02, 0.05), p=0.1, p_always_valid=0.2)


@pytest.mark.parametrize(
    ("show", "expected"),
    [(show_percent, ("+1.23%", "-1..+3.47%", "-2..+5%")), (show_signed, ("+0.0123", "-0.01..+0.0347", "-0.02..+0.05"))],
)
def test_a_lift_has_its_sign_and_its_unit_once(show, expected):
    relative, absolute = (LIFT, None) if show is show_percent else (None, LIFT)
    assert lift_cells(relative, absolute) == expected


def test_percent_goes_before_numbers():
    assert lift_cells(LIFT, LIFT) == lift_cells(LIFT, None)


def test_what_could_not_be_estimated_is_a_dash():
    assert lift_cells(None, None) == ("-", "-", "-")


def test_an_interval_names_its_unit_at_the_end_alone():
    assert show_interval((-0.5, 0.5), show_percent) == "-50..+50%"


def test_a_table_fits_80_columns_and_cuts_no_figure():
    table = narrow_table(*["a long heading"] * 7)
    table.add_row(*["+12.3..+45.6%"] * 7)
    console = Console(width=80, file=StringIO())
    console.print(table)
    text = console.file.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
