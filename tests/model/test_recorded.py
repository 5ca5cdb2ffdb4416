"""The file of recorded histories: what is written is read, anything else is refused in a sentence."""

from datetime import date

import pytest

from model.recorded import RecordedHistory, parse_recorded, read_recorded, write_recorded


def test_what_is_written_is_read_and_nobody_elses_to_read(tmp_path):
    rows = [RecordedHistory(date(2026, 11, 27), (5, -7, "clip-é")), RecordedHistory(date(2026, 11, 28), (2**63 - 1,))]
    write_recorded(tmp_path / "golden.json", rows)
    assert read_recorded(tmp_path / "golden.json") == rows
    assert (tmp_path / "golden.json").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "text",
    [
        *("", "torn", "7", "[]", "{}", '{"histories": 7}', '{"histories": [7]}', '{"histories": [{"items": [1]}]}'),
        *('{"histories": [{"day": "x", "items": [1]}]}', '{"histories": [{"day": "2026-11-28", "items": []}]}'),
        *(f'{{"histories": [{{"day": "2026-11-28", "items": {items}}}]}}' for items in ('"ab"', "[true]", "[1.0]")),
        *(f'{{"histories": [{{"day": "2026-11-28", "items": [{item}]}}]}}' for item in ('""', 2**63, f'"{"a" * 129}"')),
        "[" * 100_000,
    ],
)
def test_another_file_is_refused(text):
    with pytest.raises(ValueError, match=r"^it h") as refusal:
        parse_recorded(text.encode(), "it")
    assert len(str(refusal.value)) <= 300


def test_bytes_that_are_no_text_are_refused():
    with pytest.raises(ValueError, match="holds no recorded"):
        parse_recorded(b"\xff\xfe\xff", "it")


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match="nowhere cannot be read"):
        read_recorded(tmp_path / "nowhere")
