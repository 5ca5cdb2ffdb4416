"""Small logs written to disk and read again."""

import polars as pl
import pytest

from model.logs.columns import LogShape
from model.logs.readers import read_log


@pytest.fixture
def write(tmp_path):
    """Writes text or bytes to a file and gives its path."""

    def write_file(content, name="log.csv"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write_file


@pytest.fixture
def write_parquet(tmp_path):
    """Writes columns to a Parquet file and gives its path."""

    def write_file(name="log.parquet", **columns):
        path = tmp_path / name
        pl.DataFrame(columns).write_parquet(path)
        return path

    return write_file


@pytest.fixture
def read(write):
    """Reads a text as a log: (events as rows, report)."""

    def read_text(content, name="log.csv", log_format=None, **shape):
        log, report = read_log([write(content, name)], log_format, LogShape(**shape))
        return log.frame.select("user", "item", "time").rows(), report

    return read_text
