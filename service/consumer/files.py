"""The folder of the event log: a Parquet file a batch, there whole or not at all, and the oldest deleted.

    events/feedback/2026-11-27/1795800000000-0_1795800031234-7.parquet      named by the stream's first and last id
    events/dead/feedback/1795800000000-3.json                               what could not be read

A file is on the disk before it has its name (model/folders/files.py): who lists `*.parquet` never meets half of one.
"""

import fcntl
import json
import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl

from model.folders.files import FRESH, write_file
from service.consumer.tables import TABLES, EventTable
from service.errors import ConfigurationError

StreamId = tuple[int, int]


def parse_id(text: str) -> StreamId:
    """'1795800000000-7' -> (1795800000000, 7): ids of a stream are in the order of their numbers."""
    milliseconds, _, number = text.partition("-")
    return int(milliseconds), int(number)


def span_of(path: Path) -> tuple[StreamId, StreamId]:
    """The ids with which the entries of a file begin and end."""
    first, last = path.stem.split("_")
    return parse_id(first), parse_id(last)


class EventFolder:
    """The event log in a folder. One process writes it: the lock is held until `close`."""

    def __init__(self, folder: Path) -> None:
        """Raises ConfigurationError where the folder is in use, or cannot be written."""
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(f"the event log {folder} cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise ConfigurationError(
                f"the event log {folder} is written by another consumer; stop that one, or choose another --output"
            ) from None
        # what a kill left half written: nobody else writes here, as the lock says
        for path in folder.rglob(f".*{FRESH}"):
            path.unlink()
        self._last_ids = {table.name: self._newest(table) for table in TABLES}

    def write(self, table: EventTable, rows: Sequence[dict[str, Any]]) -> None:
        """Writes rows in the order of their ids into one file; the same rows give the same file. Raises OSError."""
        first, last = rows[0]["stream_id"], rows[-1]["stream_id"]
        day = datetime.fromtimestamp(parse_id(first)[0] / 1000, UTC).date().isoformat()
        path = self._folder / table.name / day / f"{first}_{last}.parquet"
        write_file(path, pl.DataFrame(rows, schema=table.schema, orient="row").write_parquet)
        self._last_ids[table.name] = max(self._last_ids[table.name], parse_id(last))

    def bury(self, table: EventTable, stream_id: str, data: bytes, reason: str) -> None:
        """Keeps an entry that is no event, and why. Raises OSError."""
        path = self._folder / "dead" / table.name / f"{stream_id}.json"
        entry = {"stream_id": stream_id, "reason": reason, "event": data.decode(errors="backslashreplace")}
        write_file(path, lambda fresh: fresh.write_text(json.dumps(entry), encoding="utf-8"))

    def written(self, table: EventTable, stream_ids: Collection[str]) -> set[str]:
        """The ids, of those given, that are in a file already."""
        wanted = {stream_id for stream_id in stream_ids if parse_id(stream_id) <= self._last_ids[table.name]}
        if not wanted:
            return set()
        low, high = min(map(parse_id, wanted)), max(map(parse_id, wanted))
        known: set[str] = set()
        for path in self._files(table.name):
            first, last = span_of(path)
            if first <= high and last >= low:
                known |= wanted & set(pl.read_parquet(path, columns=["stream_id"], glob=False)["stream_id"])
        return known

    def expire(self, keep_days: float, keep_bytes: int) -> list[Path]:
        """Deletes files older than `keep_days`, then the oldest until `keep_bytes` hold the rest; returns them.

        The newest file of a table stays: it says how far the stream was read.
        """
        tables = [self._files(table.name) for table in TABLES]
        sizes = {path: path.stat().st_size for files in tables for path in files}
        files = sorted((path for files in tables for path in files[:-1]), key=span_of)
        oldest_ms = (datetime.now(UTC) - timedelta(days=keep_days)).timestamp() * 1000
        excess = sum(sizes.values()) - keep_bytes
        gone = []
        for path in files:
            _, (last_ms, _) = span_of(path)
            if last_ms >= oldest_ms and excess <= 0:
                break
            path.unlink()
            gone.append(path)
            excess -= sizes[path]
        for folder in {path.parent for path in gone}:
            with suppress(OSError):  # not empty
                folder.rmdir()
        return gone

    def beat(self) -> None:
        """Leaves a sign of life, for a health check."""
        (self._folder / "alive").touch()

    def close(self) -> None:
        os.close(self._lock)

    def _files(self, table: str) -> list[Path]:
        """The files of a table, oldest first."""
        return sorted((self._folder / table).glob("*/*.parquet"), key=span_of)

    def _newest(self, table: EventTable) -> StreamId:
        return max((span_of(path)[1] for path in self._files(table.name)), default=(0, 0))
