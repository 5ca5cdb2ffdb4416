"""A log that cannot be written costs its lines alone."""

import asyncio
import io
import json
from contextlib import suppress

import pytest
import structlog

from service.telemetry.logging import LogSink, configure_logging
from service.telemetry.process import ProcessCollector


@pytest.fixture(autouse=True)
def no_level_is_left():
    before = structlog.get_config()
    yield
    structlog.configure(**before)


def lost_lines():
    async def main():
        return [sample for metric in ProcessCollector("service").collect() for sample in metric.samples]

    return next(sample.value for sample in asyncio.run(main()) if sample.name == "recall_log_lines_lost_total")


@pytest.fixture
def full_disk():
    """A file whose every write says that the disk is full."""
    with suppress(OSError), open("/dev/full", "w", encoding="utf-8") as file:
        yield file


def test_a_line_that_finds_no_room_is_lost_and_counted(full_disk, monkeypatch):
    monkeypatch.setattr("sys.stderr", full_disk)
    configure_logging("info")
    before = lost_lines()
    for number in range(3):
        structlog.get_logger().info("request", number=number)
    assert lost_lines() == before + 3


def test_lines_come_again_once_there_is_room(tmp_path, monkeypatch):
    with (tmp_path / "log").open("w", encoding="utf-8") as file:
        monkeypatch.setattr("sys.stderr", file)
        configure_logging("info")
        structlog.get_logger().info("request", route="/recall")
        LogSink(file.buffer).flush()
    assert '"route":"/recall"' in (tmp_path / "log").read_text()


def test_a_line_may_hold_what_utf_8_and_64_bits_cannot(tmp_path, monkeypatch):
    with (tmp_path / "log").open("w", encoding="utf-8") as file:
        monkeypatch.setattr("sys.stderr", file)
        configure_logging("info")
        structlog.get_logger().info("odd", text="\ud800", number=1 << 70, value=set)
    line = json.loads((tmp_path / "log").read_text())
    assert (line["text"], line["number"], line["value"]) == ("\ud800", 1 << 70, "<class 'set'>")


def test_a_process_without_error_output_logs_nowhere(monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    monkeypatch.setattr("sys.__stderr__", None)
    configure_logging("info")
    before = lost_lines()
    structlog.get_logger().info("request")
    assert lost_lines() == before


def test_text_alone_in_place_of_error_output_does_not_end_a_process(monkeypatch):
    monkeypatch.setattr("sys.stderr", io.StringIO())
    configure_logging("info")
    structlog.get_logger().info("request")
