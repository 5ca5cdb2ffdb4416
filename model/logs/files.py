"""Files of a log: which ones a path means, their format, and their text in blocks of whole lines.

Text may be compressed (gzip, zstd, bzip2, xz), UTF-8 or UTF-16 with its mark, and may end its lines in any way, also in
several. Bytes that are not of the encoding become U+FFFD, so that line numbers stay right; readers refuse such ids.
"""

import bz2
import glob
import gzip
import lzma
import os
import sys
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import IO, TextIO, cast

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

from model.logs.events import DataError

STDERR = 2
BLOCK_CHARACTERS = 2**24
MAX_LINE_CHARACTERS = 2**24
COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
PARQUET = (".parquet", ".pq")
JSON = (".jsonl", ".ndjson", ".json")
TEXT = (".csv", ".tsv", ".txt", ".dat", ".data", ".inter", ".log", ".tab", ".ssv", ".psv")
ZIP, PARQUET_MAGIC = b"PK\x03\x04", b"PAR1"
MARKS = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


@dataclass(frozen=True, slots=True)
class Block:
    """Whole lines of a text, without the end of the last one."""

    first_line: int  # from 1
    text: str
    share: float = 1.0  # of the file that has been read with it


def find_files(inputs: Iterable[Path]) -> list[Path]:
    """The files that paths, globs and folders mean, each once and in the order of their names.

    Of a folder, those whose names end as logs do, at any depth; names that begin with a dot or a low line are left out,
    as Spark and Hive do.
    Raises DataError for a path that means nothing, and for a file that is meant twice.
    """
    files = list(chain.from_iterable(map(_meant, inputs)))
    twice = next((file for file in files if files.count(file) > 1), None) if len(set(files)) < len(files) else None
    if twice is not None:
        raise DataError(f"{twice} is given twice; its events would count twice")
    return files


def stem(path: Path) -> str:
    """The name of a log without endings of format and compression."""
    name = path.name
    for endings in (COMPRESSED, (*PARQUET, *JSON, *TEXT)):
        name = next((name[: -len(end)] for end in endings if name.lower().endswith(end)), name)
    return name or path.name


def format_of(path: Path) -> str:
    """The format of a file, by its first bytes and its name: parquet, jsonl, recbole or csv."""
    if _first_bytes(path, 4) == PARQUET_MAGIC or _bare(path).endswith(PARQUET):
        return "parquet"
    if _bare(path).endswith(JSON) or sample(path)[0].lstrip().startswith("{"):
        return "jsonl"
    return "recbole" if _bare(path).endswith(".inter") else "csv"


def sample(path: Path, num_lines: int = 100) -> list[str]:
    """The first lines of a text that are not blank.

    Raises DataError when there is none.
    """
    for block in blocks(path, 2**16):
        lines = [line for line in block.text.split("\n") if line.strip()]
        if lines:
            return lines[:num_lines]
    raise DataError(f"{path} is empty")


def blocks(path: Path, num_characters: int = BLOCK_CHARACTERS) -> Iterator[Block]:
    """The text of a file in blocks of whole lines, each about `num_characters` long.

    Raises DataError when it cannot be read to its end, or when a line has no end.
    """
    line, rest = 1, ""
    try:
        size = path.stat().st_size
        with _open(path) as (file, text):
            while part := text.read(num_characters):
                rest += part
                # blank lines wait for what comes behind them: at the end of a file they are no rows
                whole = rest[: rest.rfind("\n")].rstrip("\n") if "\n" in part else ""
                if whole:
                    yield Block(line, whole, file.tell() / max(size, 1))
                    line += whole.count("\n") + 1
                    rest = rest[len(whole) + 1 :]
                elif len(rest) > MAX_LINE_CHARACTERS:
                    raise DataError(f"{path}: line {line} is longer than {MAX_LINE_CHARACTERS} characters; no log")
    except (OSError, EOFError, zlib.error, lzma.LZMAError, zstd.ZstdError) as error:
        raise DataError(f"{path} cannot be read to its end: {error}") from error
    if rest.rstrip("\n"):
        yield Block(line, rest.rstrip("\n"))


@contextmanager
def unheard() -> Iterator[None]:
    """Nothing of what this process writes to standard error output meanwhile is seen, in whichever of its threads.

    A damaged Parquet file makes polars print its own stack there, before the error that says what is wrong.
    """
    if sys.stderr:
        sys.stderr.flush()
    try:
        kept = os.dup(STDERR)
    except OSError:
        # it is closed: nobody hears anything
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, STDERR)
        yield
    finally:
        os.dup2(kept, STDERR)
        os.close(kept)
        os.close(nowhere)


def _meant(path: Path) -> list[Path]:
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if _is_log(file.relative_to(path)) and file.is_file())
        if not files:
            raise DataError(f"{path} holds no log; files that end in {', '.join((*PARQUET, *JSON, *TEXT))} are read")
        return files
    if not path.exists() and glob.has_magic(str(path)):
        files = sorted(Path(name) for name in glob.glob(str(path), recursive=True) if Path(name).is_file())
        if not files:
            raise DataError(f"no file is meant by {path}")
        return files
    if not path.is_file():
        raise DataError(f"{path} is not a file; give the path of the log to read")
    return [path]


def _is_log(path: Path) -> bool:
    hidden = any(part.startswith((".", "_")) for part in path.parts)
    return not hidden and _bare(path).endswith((*PARQUET, *JSON, *TEXT))


def _bare(path: Path) -> str:
    """The name without the ending of a compression."""
    name = path.name.lower()
    return next((name[: -len(end)] for end in COMPRESSED if name.endswith(end)), name)


def _first_bytes(path: Path, count: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(count)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error


@contextmanager
def _open(path: Path) -> Iterator[tuple[IO[bytes], TextIO]]:
    """The file as it lies on the disk, and its text."""
    with path.open("rb") as file, _unpacked(path, file) as binary:
        mark = binary.peek(2)[:2] if hasattr(binary, "peek") else b""
        # newline=None: each of \n, \r and \r\n ends a line
        yield file, TextIOWrapper(binary, MARKS.get(mark, "utf-8-sig"), errors="replace", newline=None)


def _unpacked(path: Path, file: IO[bytes]) -> IO[bytes]:
    magic = _first_bytes(path, 6)
    if magic.startswith(ZIP):
        raise DataError(f"{path} is a zip archive; unpack it and give the file or folder that holds the log")
    if magic.startswith(b"\x1f\x8b"):
        return cast(IO[bytes], gzip.open(file))
    if magic.startswith(b"\x28\xb5\x2f\xfd"):
        return cast(IO[bytes], zstd.open(file))
    if magic.startswith(b"BZh"):
        return bz2.open(file)
    return lzma.open(file) if magic.startswith(b"\xfd7zXZ") else file
