"""recall prepare --positive: words to a rule, or one clear sentence."""

import pytest

from model.logs.events import DataError
from model.positive import PositiveRule
from recall.data import read_marks, read_positive


def test_nothing_keeps_every_event():
    assert read_positive("csv", [])["positive"].keeps_all


def test_a_ratio_and_reactions():
    assert read_positive("csv", ["watch:0.5", "like", "share"]) == {"positive": PositiveRule(0.5, ("like", "share"))}


def test_kuairand_names_its_target():
    assert read_positive("kuairand", ["is_click"]) == {"target": "is_click"}
    assert read_positive("kuairand", []) == {}


@pytest.mark.parametrize("words", [["watch:half"], ["watch:0.5", "watch:0.7"], ["watch:"], ["applause"]])
def test_other_words_are_refused(words):
    with pytest.raises(DataError):
        read_positive("csv", words)


def test_outcomes_are_read_where_the_format_has_signals():
    assert [*read_marks("csv", ["like", "watch:0.9"])["outcomes"]] == ["like", "long_view"]
    for kind, sentence in (("kuairand", "kuairand has its own outcomes"), ("s3rec", "s3rec has none")):
        assert read_marks(kind, [])["outcomes"] == {}
        with pytest.raises(DataError, match=sentence):
            read_marks(kind, ["like"])
    with pytest.raises(DataError, match="--outcome: unknown reactions"):
        read_marks(None, ["applause"])


def test_kuairand_takes_one_target():
    with pytest.raises(DataError, match="one --positive"):
        read_positive("kuairand", ["is_click", "long_view"])
