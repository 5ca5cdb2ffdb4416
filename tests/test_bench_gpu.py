"""The runner of benchmarks/gpu.py: a part that breaks or runs out of time leaves a line, and loses nothing."""

import io

import pytest

pytest.importorskip("triton", reason="Triton is not installed: pip install 'recgpt-recall[kernels]'")

from benchmarks.gpu import DEFAULT, lines_of, run_apart, write
from benchmarks.gpu_parts import PARTS
from benchmarks.gpu_timing import Setting

SMALL = ["--device", "cpu", "--small"]


def test_lines_that_are_no_records_are_left_out():
    assert [*lines_of(io.StringIO('a log line\n{"part": "x", "us": 1}\n[1]\n\n'))] == [{"part": "x", "us": 1}]


def test_a_part_that_takes_too_long_is_stopped_and_named():
    lines = [*run_apart("engine", SMALL, limit_s=0.2)]
    assert lines[-2]["part"] == "engine"
    assert lines[-2]["failed"].startswith("stopped after")
    assert lines[-1]["seconds"] < 20


def test_a_part_that_breaks_leaves_the_end_of_its_error():
    lines = [*run_apart("engine", [*SMALL, "--bound", "[not json"], limit_s=60)]
    assert "--bound" in lines[0]["failed"]


def test_the_parts_that_run_by_default_exist():
    assert set(DEFAULT) < set(PARTS)


def test_shares_are_of_the_larger_bound():
    setting = Setting("cpu", True, {"bytes_s": 1e9, "float16_ops_s": 1e12})
    assert setting.share(100.0, 2e4, 1e6, "float16") == {"us": 100.0, "bound_us": 20.0, "share": 0.2}
    assert setting.share(100.0, 2e4, 5e7, "float16")["bound_us"] == 50.0


def test_lines_are_written_as_they_come(capsys):
    output = io.StringIO()
    write({"part": "x"}, output)
    assert output.getvalue() == capsys.readouterr().out == '{"part": "x"}\n'
