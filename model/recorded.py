"""The file of histories that a service has sampled from its requests: item ids and the day, nothing of whose they are.

{"histories": [{"day": "2026-11-28", "items": [5, 9, 77]}]}
"""

import json
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import NamedTuple

from model.catalogue import ExternalId
from model.folders.files import write_file
from model.ids import MAX_CHARACTERS, MAX_INTEGER, MIN_INTEGER


class RecordedHistory(NamedTuple):
    """A history of a live request: what the encoder was asked with, in external ids."""

    day: date  # it was seen, UTC
    items: tuple[ExternalId, ...]  # oldest to newest


def parse_recorded(data: bytes, source: str) -> list[RecordedHistory]:
    """The histories in the bytes of a file, oldest first. source: of the bytes, for the sentence of a refusal.

    Raises ValueError for anything else.
    """
    try:
        rows = [(date.fromisoformat(row["day"]), row["items"]) for row in json.loads(data)["histories"]]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise ValueError(f"{source} holds no recorded histories: {error!r}"[:300]) from error
    if not all(isinstance(items, list) and items and all(map(_is_id, items)) for _, items in rows):
        raise ValueError(f"{source} has a history that is no list of item ids")
    return [RecordedHistory(day, tuple(items)) for day, items in rows]


def read_recorded(path: Path) -> list[RecordedHistory]:
    """Raises ValueError for a file that cannot be read, or is none of these."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    return parse_recorded(data, str(path))


def write_recorded(path: Path, histories: Iterable[RecordedHistory]) -> None:
    """Replaces the file in one step. Raises OSError."""
    rows = [{"day": day.isoformat(), "items": items} for day, items in histories]
    text = json.dumps({"histories": rows}, ensure_ascii=False)

    def write(fresh: Path) -> None:
        # what people watched is nobody else's to read
        fresh.touch(mode=0o600)
        fresh.write_text(text, encoding="utf-8", errors="surrogatepass")

    write_file(path, write)


def _is_id(value: object) -> bool:
    if isinstance(value, str):
        return 0 < len(value) <= MAX_CHARACTERS
    return type(value) is int and MIN_INTEGER <= value <= MAX_INTEGER
