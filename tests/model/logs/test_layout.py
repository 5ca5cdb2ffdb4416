"""The layout of a text log: guessed where it can only be this, named where not."""

from pathlib import Path

import pytest

from model.logs.columns import LogShape
from model.logs.events import DataError
from model.logs.layout import find_layout, split_line


def layout(*lines, **shape):
    return find_layout(lines, Path("log"), LogShape(**shape))


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", "::", " "])
def test_a_separator_is_guessed_by_the_header(separator):
    plan = layout(separator.join(["user_id", "item_id", "timestamp"]), separator.join(["1", "a,b;c", "2"]))
    assert (plan.separator, plan.has_header, plan.num_fields) == (separator, True, 3)


@pytest.mark.parametrize("separator", [",", ";", "\t", "|", "::", " "])
def test_a_separator_is_guessed_without_a_header(separator):
    plan = layout(*(separator.join(["196", "242", "3", "88125094" + str(n)]) for n in range(3)))
    assert (plan.separator, plan.has_header, plan.plan.names) == (separator, False, ("user", "item", "time"))
    assert any("guessed" in note for note in plan.notes)


@pytest.mark.parametrize("separator", ["^", "#|#", "§", "\x01"])
def test_a_separator_may_be_named(read, separator):
    text = f"user{separator}item{separator}time\n1{separator}2{separator}3\n"
    assert read(text, separator=separator)[0] == [(1, 2, 3)]


def test_pairs_are_in_order():
    plan = layout("1 10", "1 11", "2 10")
    assert (plan.plan.positions, plan.in_order) == ((("user", 0), ("item", 1)), True)
    assert "no times: the lines are taken in their order" in plan.notes


def test_three_columns_are_known_when_the_last_is_a_time():
    assert layout("u1,i1,2024-01-01", "u2,i1,2024-01-02").plan.names == ("user", "item", "time")


@pytest.mark.parametrize(
    "lines",
    [
        ["1,2,5", "1,3,4"],  # a time or a rating
        ["1,2,881250949,5", "1,3,881250950,4"],  # which of them?
        ["1,2,3,pv,1511544070", "1,5,3,pv,1511544071"],
    ],
)
def test_what_could_be_wrong_without_notice_is_not_guessed(lines):
    with pytest.raises(DataError, match="name its columns with --header"):
        layout(*lines)


def test_a_published_file_without_a_header_is_known_by_its_name(read):
    text = "1,2,3,pv,1511544070\n1,5,3,pv,1511544071\n"
    events, report = read(text, "UserBehavior.csv")
    assert events == [(1, 2, 1511544070), (1, 5, 1511544071)]
    assert "columns: user = column 1, item = column 2, time = column 5 (guessed: name them with --header" in str(report)
    with pytest.raises(DataError, match="name its columns with --header"):
        read("1,2,3,pv,7\n1,5,3,pv,8\n", "UserBehavior.csv")  # its fifth column holds no times


def test_columns_without_a_header_may_be_named(read):
    header = ("user", "item", "-", "-", "time")
    assert read("1,2,3,pv,1511544070\n1,5,3,pv,1511544071\n", header=header)[0] == [
        (1, 2, 1511544070),
        (1, 5, 1511544071),
    ]


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (("user", "item", "-"), "--header names no time"),
        (("user", "item", "-", "time"), "has 3 columns, and --header names 4"),
    ],
)
def test_names_that_do_not_fit_are_refused(header, message):
    with pytest.raises(DataError, match=message):
        layout("1,2,3", header=header)


def test_an_unknown_header_says_what_is_wanted():
    with pytest.raises(DataError, match=r"wanted user: one of user.*--column user=NAME"):
        layout("who,what,when", "a,b,c")


def test_a_long_first_line_is_not_repeated():
    with pytest.raises(DataError) as refusal:
        layout("7" * 100_000, "8")
    assert len(str(refusal.value)) < 400


@pytest.mark.parametrize(
    ("line", "fields"),
    [('a,"b,""c""",d', ["a", 'b,"c"', "d"]), ("a,,", ["a", "", ""]), ('"a"', ["a"]), (',"b"', ["", "b"])],
)
def test_fields_of_a_line(line, fields):
    assert split_line(line, ",") == fields


def test_quotes_in_tab_separated_text_are_quotes_where_the_header_has_them(read):
    assert read('"user"\t"item"\t"time"\n"u"\t"a\tb"\t1\n')[1].rows_bad == 1
    assert read('"user"\t"item"\t"time"\n"u"\t"a"\t1\n')[0] == [("u", "a", 1)]
    assert read('user\titem\ttime\tview\nu\ta\t1\t5" wide\n')[0] == [("u", "a", 1)]
