"""The positive rule travels with what was trained by it: prepared data, checkpoint, bundle."""

import json

import pytest

from model.data.prepare import PrepareOptions, prepare
from model.data.sequences import SequenceData
from model.positive import PositiveRule, read_rule, write_rule

RULE = PositiveRule(0.5, ("like", "share"))


@pytest.mark.parametrize("rule", [PositiveRule(), RULE, PositiveRule(2.0)])
def test_words_and_json_say_the_rule_again(rule):
    assert PositiveRule.parse(rule.words) == rule
    assert read_rule(json.loads(json.dumps(write_rule(rule)))) == rule


def test_a_rule_that_is_not_known_stays_unknown():
    assert read_rule(write_rule(None)) is None


@pytest.mark.parametrize("words", [["watch:half"], ["watch:0.5", "watch:1"], ["applause"], ["watch:0"]])
def test_other_words_are_refused(words):
    with pytest.raises(ValueError, match=r"watch:RATIO|unknown reactions|above 0"):
        PositiveRule.parse(words)


def test_prepared_data_know_the_rule(tmp_path):
    log = tmp_path / "log.csv"
    rows = [f"u{user},i{item},{item},1,1000,1000" for user in range(3) for item in range(5)]
    log.write_text("\n".join(["user,item,time,like,play_time_ms,duration_ms", *rows]))
    data, _ = prepare(PrepareOptions("csv", log, positive=PositiveRule(0.5, ("like",))))
    data.save(tmp_path / "data")
    assert SequenceData.load(tmp_path / "data").positive == PositiveRule(0.5, ("like",))


def test_data_of_an_earlier_version_do_not(tmp_path, tiny):
    tiny.save(tmp_path / "data")
    assert SequenceData.load(tmp_path / "data").positive is None
