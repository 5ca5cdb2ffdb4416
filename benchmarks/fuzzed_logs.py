"""Logs with faults of many kinds, drawn from a source of random numbers: text, JSON Lines, Parquet, and their options.

The source is `random.Random` where many are wanted (benchmarks/fuzz_logs.py), and one of hypothesis where a failure
shall be shrunk (tests/model/logs/test_fuzz.py): the kinds of faults are written once.
"""

import bz2
import gzip
import io
import json
import lzma
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import polars as pl

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from model.logs.readers import FORMATS

OPTIONAL = ["like", "watch_ratio", "play_time_ms", "title", "", "a:token", "Item ID"]
NAMES = ["user", "item", "time", "User ID", "movieId", "ts", "user_id:token", "timestamp:float", *OPTIONAL]
ODD = [
    *("NULL", "nan", "", " ", "1e9", "7.0", "007", "[/b]", "1700000000", "1700000000001", "-0", "inf", "1e400", "0x1F"),
    *("2024-01-01", "2024-01-01T00:00:00Z", "9999-12-31 00:00:00", "2024-01-01 00:00:00.123456789", "0001-01-01"),
    *("Tue Apr 03 18:00:06 +0000 2012", "2024-02-30", "2024-01-01T25:61:61+99:99", "\\N", "None", "true", "\u202e1"),
    *("9223372036854775807", "9223372036854775808", "-9223372036854775809", "1" * 400, "x" * 129, "\ufeff1", "1,5"),
]
# characters of every kind that a parser may trip over: controls, marks, digits of other scripts, halves of pairs
LETTERS = "ab7-.:/ \"'\\,;\t|\0\x1a\x1f\x7f\x85\u2028\u0663\u00e9\u00df\u202e\ufeff\ufffd\ud800\udfff\U0001f600"
ENDS = ["\n", "\r", "\r\n", "\n\n", ""]
SEPARATORS = [",", ";", "\t", "|", "::", " ", "\x1f", "\0", "ß"]
QUOTES = ["", "", "", '"', "'", '""']
ENCODINGS = ["utf-8-sig", "utf-16", "utf-16-le", "latin-1", "utf-32"]
PACKERS: list[Callable[[bytes], bytes]] = [gzip.compress, bz2.compress, lzma.compress, zstd.compress]
FIRST = datetime(2024, 1, 1)
MAX_ROWS = 20
Value = Callable[[random.Random], object]


@dataclass(frozen=True)
class FuzzedLog:
    """Files by their names, and options of a `LogShape` and of the split."""

    files: dict[str, bytes]
    log_format: str | None = None
    shape: dict[str, Any] = field(default_factory=dict)
    split: dict[str, Any] = field(default_factory=dict)


def draw_log(rng: random.Random) -> FuzzedLog:
    """One log: in nine of ten a single file, in two of three without an option."""
    draws = [draw_text, draw_text, draw_json, draw_table]
    files = dict(rng.choice(draws)(rng) for _ in range(2 if rng.random() < 0.1 else 1))
    if rng.random() < 0.7:
        return FuzzedLog(files, split=_split(rng))
    return FuzzedLog(files, rng.choice([None, *FORMATS]), _shape(rng), _split(rng))


def draw_text(rng: random.Random) -> tuple[str, bytes]:
    """A delimited text whose lines, quotes, ends and encoding may all be wrong."""
    separator, quote, header = _usual(rng, SEPARATORS), rng.choice(QUOTES), _header(rng)
    columns = [_column_of_texts(rng, name) for name in header]
    rows = [[str(value(rng)) for value in columns] for _ in range(_num_rows(rng))]
    lines = [header, *rows] if rng.random() < 0.75 else rows
    if lines and rng.random() < 0.1:
        line = rng.choice(lines)
        line[rng.randrange(len(line))] += rng.choice(['"', separator, "\n", "\0"])
    end = rng.choice(ENDS[:3])
    any_end = rng.random() < 0.2
    ends = [rng.choice(ENDS) if any_end else end for _ in lines]
    text = "".join(separator.join(quote + f + quote for f in line) + e for line, e in zip(lines, ends, strict=True))
    encoding = rng.choice(ENCODINGS) if rng.random() < 0.2 else "utf-8"
    return "log" + _usual(rng, [".csv", ".inter", ".jsonl", "", ".tsv"]), spoil(
        rng, text.encode(encoding, errors="replace")
    )


def draw_json(rng: random.Random) -> tuple[str, bytes]:
    """JSON Lines of any values."""
    header = _header(rng)
    columns = [rng.choice([_plain, _plain, _json_value]) for _ in header]
    lines: list[object] = [
        {name: value(rng) for name, value in zip(header, columns, strict=True) if rng.random() < 0.95}
        for _ in range(_num_rows(rng))
    ]
    if rng.random() < 0.2:
        lines.append(_json_value(rng))
    text = rng.choice(ENDS[:4]).join(map(json.dumps, lines))
    return "log" + rng.choice([".jsonl", ".json", ".txt"]), spoil(rng, text.encode())


def draw_table(rng: random.Random) -> tuple[str, bytes]:
    """Parquet of columns of any types."""
    num_rows, out = _num_rows(rng), io.BytesIO()
    columns = {name: _column_of_a_table(rng, num_rows) for name in _header(rng)}
    pl.DataFrame(columns).write_parquet(out, compression="uncompressed")
    return "log.parquet", spoil(rng, out.getvalue())


def spoil(rng: random.Random, content: bytes) -> bytes:
    """The content packed one time in ten, and with a few bytes lost, added or changed one time in ten."""
    if rng.random() < 0.1:
        content = rng.choice(PACKERS)(content)
    if content and rng.random() < 0.1:
        at = rng.randrange(len(content))
        new = bytes(rng.choice([0, 10, 13, 34, 44, 127, 128, 192, 255]) for _ in range(rng.randrange(4)))
        content = content[:at] + new + content[at + rng.randrange(4) :]
    return content[: rng.randrange(len(content))] if content and rng.random() < 0.02 else content


def _usual(rng: random.Random, choices: list[str]) -> str:
    """The first of the choices half of the time."""
    return choices[0] if rng.random() < 0.5 else rng.choice(choices)


def _num_rows(rng: random.Random) -> int:
    return rng.randrange(MAX_ROWS)


def _header(rng: random.Random) -> list[str]:
    """The columns that a log needs three times in four, in any order, and some more; else any names."""
    if rng.random() < 0.25:
        return [rng.choice(NAMES) for _ in range(1 + rng.randrange(6))]
    names = ["user", "item", "time"]
    rng.shuffle(names)
    more = [name for name in OPTIONAL if rng.random() < 0.15]
    return [*names, *more]


def _plain(rng: random.Random) -> object:
    return rng.randrange(10)


def _few(rng: random.Random) -> object:
    return rng.randrange(3)


def _text(rng: random.Random) -> object:
    if rng.random() < 0.6:
        return rng.choice(ODD)
    return "".join(rng.choice(LETTERS) for _ in range(rng.randrange(7)))


def _date(rng: random.Random) -> object:
    return FIRST + timedelta(seconds=rng.randrange(10**6), microseconds=rng.choice([0, 1000, 1]))


def _epoch(rng: random.Random) -> object:
    return 1_700_000_000 + rng.randrange(10**6)


def _large(rng: random.Random) -> object:
    return rng.randrange(-(2**70), 2**70)


def _float(rng: random.Random) -> object:
    return rng.choice([0.5, -1.0, 1e300, float("nan"), float("inf"), 7.0, 1.7e9, 5e-324])


def _json_value(rng: random.Random) -> object:
    scalar = rng.choice([_plain, _text, _large, _float, lambda _: None, lambda _: True, _epoch])
    if rng.random() < 0.85:
        return scalar(rng)
    return rng.choice([[], {}, [scalar(rng)], {"user": scalar(rng)}, [[[]]]])


def _column_of_texts(rng: random.Random, name: str) -> Value:
    """The way in which a column gets its values: all of one kind, or now and then an odd one."""
    kinds = {"time": [_plain, _epoch, _date], "user": [_few, _few, _plain, _text]}
    usual = rng.choice(kinds.get(name, [_plain, _plain, _text]))
    odd_share = rng.choice([0.0, 0.0, 0.05, 0.5])
    return lambda source: _text(source) if source.random() < odd_share else usual(source)


def _column_of_a_table(rng: random.Random, num_rows: int) -> pl.Series:
    def whole(high: int = 2**63) -> list[int | None]:
        low = rng.choice([0, -high])
        return [None if rng.random() < 0.1 else rng.randrange(low, high) for _ in range(num_rows)]

    kinds: list[Callable[[], pl.Series]] = [
        lambda: pl.Series([_plain(rng) for _ in range(num_rows)], dtype=rng.choice([pl.Int64, pl.Int8, pl.UInt64])),
        lambda: pl.Series([_few(rng) for _ in range(num_rows)], dtype=pl.Int64),
        lambda: pl.Series(whole(), dtype=pl.Int64),
        lambda: pl.Series([_float(rng) for _ in range(num_rows)], dtype=pl.Float64),
        lambda: pl.Series([_storable(_text(rng)) for _ in range(num_rows)], dtype=pl.String),
        lambda: pl.Series([_storable(_text(rng)).encode()[:3] for _ in range(num_rows)], dtype=pl.Binary),
        lambda: pl.Series(
            [None] * num_rows,
            dtype=rng.choice([pl.Boolean, pl.Date, pl.Time, pl.Null, pl.Int8, pl.Int128, pl.Categorical, pl.Duration]),
        ),
        lambda: pl.Series(whole(), dtype=pl.Int64).cast(pl.Datetime(rng.choice(["ms", "us", "ns"]))),
        lambda: pl.Series([_date(rng) for _ in range(num_rows)], dtype=pl.Datetime("us")),
        lambda: pl.Series([[1]] * num_rows, dtype=pl.List(pl.Int64)),
        lambda: pl.Series([{"a": 1}] * num_rows, dtype=pl.Struct({"a": pl.Int64})),
        lambda: pl.Series([rng.randrange(10) for _ in range(num_rows)]).cast(pl.Decimal(10, 2)),
    ]
    return kinds[rng.randrange(3)]() if rng.random() < 0.6 else rng.choice(kinds)()


def _storable(text: object) -> str:
    return str(text).encode("utf-8", "replace").decode()


def _shape(rng: random.Random) -> dict[str, Any]:
    choices: dict[str, list[Any]] = {
        "columns": [{"user": "title", "item": "ts"}, {"item": "user"}, {"time": "ts"}],
        "header": [("user", "item", "time"), ("item", "-", "user"), ("user", "item", "time", "like")],
        "separator": [*SEPARATORS, '"', "ab"],
        "timezone": ["Asia/Shanghai", "Nowhere", "Europe/Berlin"],
        "in_order": [True],
    }
    return {name: rng.choice(values) for name, values in choices.items() if rng.random() < 0.3}


def _split(rng: random.Random) -> dict[str, Any]:
    if rng.random() < 0.5:
        return {}
    return {"split": rng.choice(["leave-one-out", "by-time"]), "k_core": rng.choice([0, 0, 2])}
