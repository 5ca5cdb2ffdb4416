"""The audit of packages tells a clean list from one that nobody could look up."""

import pytest

from benchmarks.audit import installed, summary

CLEAN, UNKNOWN = {"name": "a", "version": "1", "vulns": []}, {"name": "b", "skip_reason": "not found"}
FAULTY = {"name": "c", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}


@pytest.mark.parametrize(
    ("dependencies", "status", "said"),
    [
        ([CLEAN], 0, "1 packages looked up, 0 known faults"),
        ([CLEAN, UNKNOWN], 0, "nothing could be asked about 1: b"),
        ([UNKNOWN, UNKNOWN], 2, "0 packages looked up"),
        ([CLEAN, FAULTY], 1, "c 2: PYSEC-1, mended in 3"),
    ],
)
def test_what_could_not_be_looked_up_is_no_clean_list(dependencies, status, said):
    text, ended = summary(dependencies)
    assert ended == status
    assert said in text


def test_every_package_of_the_environment_is_listed_but_our_own():
    names = {line.partition("==")[0] for line in installed()}
    assert {"torch", "fastapi", "pytest"} <= names
    assert "recgpt-recall" not in names
    assert not any("+" in line for line in installed())
