"""Logs with faults of many kinds, read in a loop: every one is read or refused in a sentence, never with a traceback.

    python -m benchmarks.fuzz_logs --examples 100000

The suite reads a few of them (tests/model/logs/test_fuzz.py). The last line is JSON: how many were read and refused.
"""

import argparse
import gzip
import io
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Literal

import polars as pl
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from model.logs.columns import LogShape
from model.logs.events import DataError
from model.logs.readers import FORMATS, read_log

NAMES = ["user", "item", "time", "like", "watch_ratio", "User ID", "movieId", "ts", "title", "", "a:token"]
VALUES = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.sampled_from(["NULL", "nan", "", " ", "1e9", "7.0", "007", "[/b]", "1700000000", "1700000000001", "-0", "inf"]),
    st.sampled_from(["2024-01-01", "2024-01-01T00:00:00Z", "9999-12-31 00:00:00", "2024-01-01 00:00:00.123456789"]),
    st.text(max_size=6),
)
ENDS = ["\n", "\r", "\r\n", "\n\n", ""]
SEPARATORS = [",", ";", "\t", "|", "::", " ", "\x1f", "\0", "ß"]
QUOTES = ["", "", "", '"', "'", '""']
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1", "utf-32"]
UNITS: list[Literal["ms", "us", "ns"]] = ["ms", "us", "ns"]
COLUMNS = st.one_of(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=3, max_size=3).map(pl.Series),
    st.lists(st.floats() | st.none(), min_size=3, max_size=3).map(lambda v: pl.Series(v, dtype=pl.Float64)),
    st.lists(st.text(max_size=4) | st.none(), min_size=3, max_size=3).map(lambda v: pl.Series(v, dtype=pl.String)),
    st.lists(st.binary(max_size=4), min_size=3, max_size=3).map(pl.Series),
    st.sampled_from([pl.Boolean, pl.Date, pl.Time, pl.Null, pl.Int8, pl.UInt64, pl.Int128, pl.Categorical]).map(
        lambda kind: pl.Series([None] * 3, dtype=kind)
    ),
    st.sampled_from(UNITS).flatmap(
        lambda unit: st.lists(st.integers(-(2**63), 2**63 - 1), min_size=3, max_size=3).map(
            lambda v: pl.Series(v).cast(pl.Datetime(unit))
        )
    ),
    st.just(pl.Series([[1], [2], []])),
    st.just(pl.Series([{"a": 1}] * 3)),
)


PLAIN = st.integers(0, 9).map(str)
DATES = st.datetimes().map(str) | st.dates().map(str)
WHOLE = st.tuples(st.permutations(["user", "item", "time"]), st.lists(st.sampled_from(NAMES[3:]), max_size=3)).map(
    lambda parts: [*parts[0], *parts[1]]
)
# three in four logs have the columns that they need
HEADERS = st.integers(0, 3).flatmap(lambda n: WHOLE if n else st.lists(st.sampled_from(NAMES), min_size=1, max_size=6))


@st.composite
def texts(draw: st.DrawFn) -> tuple[str, bytes]:
    """A delimited text whose lines, quotes, ends and encoding may all be wrong."""
    separator, quote = draw(st.sampled_from(SEPARATORS)), draw(st.sampled_from(QUOTES))
    header = draw(HEADERS)
    columns = [draw(st.sampled_from([PLAIN, PLAIN, VALUES, DATES])) for _ in header]
    rows = draw(st.lists(st.tuples(*columns).map(list), max_size=6))
    lines = [header, *rows] if draw(st.integers(0, 3)) else rows
    ends = draw(st.lists(st.sampled_from(ENDS[:3]), min_size=len(lines), max_size=len(lines)))
    if lines and not draw(st.integers(0, 3)):
        ends = draw(st.lists(st.sampled_from(ENDS), min_size=len(lines), max_size=len(lines)))
    text = "".join(separator.join(quote + f + quote for f in line) + end for line, end in zip(lines, ends, strict=True))
    content = text.encode(draw(st.just("utf-8") | st.sampled_from(ENCODINGS)), errors="replace")
    return "log" + draw(st.sampled_from([".csv", ".csv", ".inter", ".jsonl", ""])), _damaged(draw, content)


@st.composite
def json_lines(draw: st.DrawFn) -> tuple[str, bytes]:
    """JSON Lines of any values."""
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4)
    values = scalars | st.lists(scalars, max_size=2) | st.dictionaries(st.text(max_size=2), scalars, max_size=2)
    objects = st.fixed_dictionaries(
        {"user": scalars, "item": scalars | values, "time": st.integers() | values},
        optional=dict.fromkeys(NAMES[3:], values),
    )
    lines = [json.dumps(value) for value in draw(st.lists(objects | objects | values, max_size=5))]
    return "log.jsonl", _damaged(draw, "\n".join(lines).encode())


@st.composite
def tables(draw: st.DrawFn) -> tuple[str, bytes]:
    """Parquet of columns of any types."""
    names = dict.fromkeys(draw(HEADERS))
    out = io.BytesIO()
    pl.DataFrame({name: draw(COLUMNS) for name in names}).write_parquet(out)
    return "log.parquet", _damaged(draw, out.getvalue())


USUAL: dict[str, object] = {"log_format": None}
SHAPES = st.one_of(
    st.just(USUAL),
    st.just(USUAL),
    st.fixed_dictionaries(
        {"log_format": st.none() | st.sampled_from([*FORMATS])},
        optional={
            "columns": st.just({"user": "title", "item": "ts"}) | st.just({"item": "user"}),
            "header": st.just(("user", "item", "time")) | st.just(("item", "-", "user")),
            "separator": st.sampled_from([*SEPARATORS, '"', "ab"]),
            "timezone": st.sampled_from(["Asia/Shanghai", "Nowhere"]),
            "in_order": st.booleans(),
        },
    ),
)
LOGS = texts() | texts() | json_lines() | tables()


def outcome(folder: Path, log: tuple[str, bytes], shape: dict[str, object]) -> str:
    """Reads a log; "read", or "refused" where a DataError said why in one line. Anything else is an error."""
    name, content = log
    path = folder / name
    path.write_bytes(content)
    options = dict(shape)
    try:
        events, report = read_log([path], options.pop("log_format"), LogShape(**options))  # type: ignore[arg-type]
    except DataError as error:
        if "\n" in str(error) or len(str(error)) > 5000:
            raise AssertionError("a refusal is one short line") from error
        return "refused"
    assert len(events) == report.rows_kept
    assert sum(count for _, count in report.reasons) == report.rows_bad
    return "read"


def _damaged(draw: st.DrawFn, content: bytes) -> bytes:
    if draw(st.integers(0, 9)) == 0:
        content = gzip.compress(content)
    if content and draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(content) - 1))
        content = content[:at] + draw(st.binary(max_size=3)) + content[at + draw(st.integers(0, 3)) :]
    return content


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=100_000)
    examples = parser.parse_args().examples
    outcomes: Counter[str] = Counter()
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:

        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=[*HealthCheck],
        )
        @given(LOGS, SHAPES)
        def run(log: tuple[str, bytes], shape: dict[str, object]) -> None:
            outcomes[outcome(Path(folder), log, shape)] += 1

        run()
    print(json.dumps({"examples": outcomes.total(), **outcomes, "seconds": round(time.perf_counter() - started)}))


if __name__ == "__main__":
    main()
