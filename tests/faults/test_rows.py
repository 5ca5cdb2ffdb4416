"""The fault suite itself: every row is there and measured by something, and a row that breaks is one that failed."""

import json
from importlib import import_module

import pytest

from benchmarks import faults_elsewhere
from benchmarks.fault_rows import CASES, Case, in_both
from benchmarks.faults import ROWS_OF, row
from benchmarks.faults_elsewhere import newest, read, run_tests


@pytest.fixture(scope="module", autouse=True)
def imported():
    for name in ROWS_OF:
        import_module(f"benchmarks.{name}")


def test_every_row_is_there_once():
    ids = sorted(case.id for case in CASES)
    assert len({*ids}) == len(ids)
    assert {*range(1, 38)} == {*ids}
    assert all(case.criterion for case in CASES)


def test_both_layouts_have_to_pass():
    given = []

    def run(bundle, *options):
        given.append(options)
        return f"with {len(options)} options", not options

    assert in_both(run)(None) == ("one process: with 0 options; 2 HTTP processes: with 2 options", False)
    assert given == [(), ("--http-workers", "2")]


@pytest.mark.parametrize("error", [RuntimeError("no service"), KeyError("items"), TimeoutError("late")])
def test_a_row_that_breaks_has_failed_and_says_why(error):
    def run(_):
        raise error

    outcome = row(Case(1, "a", "b", run), None)
    assert (outcome["passed"], outcome["measured"]) == (False, f"the case broke: {error!r}")


@pytest.fixture
def results(tmp_path, monkeypatch):
    monkeypatch.setattr(faults_elsewhere, "RESULTS", tmp_path)
    rows = [{"layout": "a", "n": 1}, {"layout": "b", "n": 5}, {"layout": "a", "n": 3}, {"layout": "a", "n": 0}]
    (tmp_path / "some.jsonl").write_text("".join(json.dumps(each) + "\n" for each in rows))
    return tmp_path


def test_the_newest_whole_row_of_each_kind_counts(results):
    assert newest("some.jsonl", "layout", lambda each: each["n"] > 0) == [
        {"layout": "a", "n": 3},
        {"layout": "b", "n": 5},
    ]
    assert newest("none.jsonl", "layout") == []


@pytest.mark.parametrize(("wanted", "most", "passed"), [(2, 5, True), (3, 5, False), (2, 4, False)])
def test_rows_that_are_missing_or_too_high_fail(results, wanted, most, passed):
    def say(each):
        return f"{each['n']} of them", each["n"] <= most

    text, is_good = read("some.jsonl", "layout", say, lambda _: True, wanted)
    assert is_good is passed
    assert text.startswith("a, no date: 0 of them; b, no date: 5 of them (results/some.jsonl, commit ")


def test_tests_that_are_skipped_have_not_passed(tmp_path):
    file = tmp_path / "test_some.py"
    file.write_text("import pytest\ndef test_a(): pass\n@pytest.mark.skip(reason='no')\ndef test_b(): pass\n")
    text, is_good = run_tests(f"{file}")
    assert text.startswith("1 passed, 1 skipped in ")
    assert not is_good
    assert run_tests(f"{file}::test_a")[1]
