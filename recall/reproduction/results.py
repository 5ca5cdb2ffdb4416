"""A measured run as one row, and the file of rows: JSON Lines, one row a line, only ever appended to.

Recipe, network and plan of a row are long and the same for many rows: they stand once in `settings.jsonl` beside the
file, one line a digest, and a row names the digest. Several runs may append at once; a run that is interrupted has
written nothing.
"""

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

Key = tuple[object, ...]


@dataclass(frozen=True, kw_only=True)
class Row:
    """One system, trained by one recipe with one seed, measured on one split of one data set."""

    dataset: str
    system: str
    recipe: str  # best or paper
    seed: int
    split: str  # test; KuaiRec has test, 10 revealed and so on beside it; valid in studies
    metrics: Mapping[str, float]  # HR@5, NDCG@5 ..
    valid: Mapping[str, float] = field(default_factory=dict)  # what weights and plan were chosen by
    settings: Mapping[str, Any] = field(default_factory=dict)  # recipe without defaults, network, plan
    num_users: int | None = None  # measured
    epochs: int | None = None
    seconds: float | None = None  # of training
    measure_seconds: float | None = None  # of ranking for all users, once
    peak_memory_mb: float | None = None  # of the process up to here
    data_digest: str | None = None
    recipe_digest: str | None = None  # None: a row of before digests were kept
    bundle: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    machine: str | None = None
    threads: int | None = None
    date: str | None = None
    max_epochs: int | None = None  # a quick try: never in docs/results.md
    study: str | None = None  # a row of a study is no row of the table
    point: Mapping[str, float] = field(default_factory=dict)  # where in the study

    @property
    def key(self) -> Key:
        """The same for two rows that measure the same thing."""
        run = (self.dataset, self.data_digest, self.system, self.recipe, self.recipe_digest, self.seed, self.split)
        return (*run, self.study, tuple(sorted(self.point.items())))

    def __str__(self) -> str:
        return " ".join(map(str, (self.dataset, self.system, self.recipe, f"seed {self.seed}", self.split)))

    def to_json(self) -> dict[str, Any]:
        # what is unknown is left out; 0 is a fact and stays
        return {name: value for name, value in asdict(self).items() if value not in (None, {})}

    @classmethod
    def from_json(cls, values: Any) -> "Row":
        """Raises ValueError for what is not a row, and names the key."""
        if not isinstance(values, dict):
            raise ValueError(f"a row is a mapping, not {values!r}")
        names = {f.name for f in fields(cls)}
        if unknown := set(values) - names:
            raise ValueError(f"a row has no {', '.join(sorted(unknown))}")
        if missing := {"dataset", "system", "recipe", "seed", "split", "metrics"} - set(values):
            raise ValueError(f"a row lacks {', '.join(sorted(missing))}")
        return cls(**values)


@dataclass(frozen=True)
class Results:
    """The rows of a file; a file that is not there has none."""

    path: Path

    @property
    def settings_path(self) -> Path:
        return self.path.with_name("settings.jsonl")

    def rows(self) -> list[Row]:
        """Raises ValueError, with file and line, for what is not a row, a row twice, or settings that are missing."""
        if not self.path.exists():
            return []
        with self._locked(fcntl.LOCK_SH):
            return self._read()

    def append(self, rows: Sequence[Row]) -> None:
        """All of `rows` or none; what the file has already (`Row.key`) stays as it is."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self._locked(fcntl.LOCK_EX):
            keys = {row.key for row in self._read()}
            fresh = list({row.key: row for row in rows if row.key not in keys}.values())
            settings = {settings_digest(row.settings): row.settings for row in fresh if row.settings}
            known = self._read_settings()
            # settings first: a row never names what is not there
            _append_lines(
                self.settings_path,
                [{"digest": name, "settings": values} for name, values in settings.items() if name not in known],
            )
            _append_lines(self.path, [_with_digest(row) for row in fresh])

    def _read(self) -> list[Row]:
        settings, lines = self._read_settings(), dict[Key, int]()
        rows = []
        for number, values in enumerate(_read_lines(self.path), 1):
            row = self._row(number, values, settings)
            if first := lines.get(row.key):
                raise ValueError(f"{self.path}: lines {first} and {number} are the same run ({row}); keep one of them")
            lines[row.key] = number
            rows.append(row)
        return rows

    def _row(self, number: int, values: Any, settings: Mapping[str, Any]) -> Row:
        try:
            row = Row.from_json(values)
        except ValueError as error:
            raise ValueError(f"{self.path}: line {number} is not a row: {error}") from error
        digest = values.get("settings")
        if digest is None:
            return row
        if digest not in settings:
            raise ValueError(f"{self.path}: line {number} has settings {digest!r}, which {self.settings_path} lacks")
        return replace(row, settings=settings[digest])

    def _read_settings(self) -> dict[str, Any]:
        known = {}
        for number, line in enumerate(_read_lines(self.settings_path), 1):
            if not isinstance(line, dict) or set(line) != {"digest", "settings"}:
                raise ValueError(f"{self.settings_path}: line {number} is not a digest with its settings")
            known[line["digest"]] = line["settings"]
        return known

    @contextmanager
    def _locked(self, kind: int) -> Iterator[None]:
        # the folder is what is locked: a lock file would stay behind
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, kind)
            yield
        finally:
            # closing releases the lock, also when writing failed
            os.close(folder)


def settings_digest(settings: Mapping[str, Any]) -> str:
    """The same for the same settings, in any order of their keys."""
    text = json.dumps(settings, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _with_digest(row: Row) -> dict[str, Any]:
    values = row.to_json()
    return values | {"settings": settings_digest(row.settings)} if row.settings else values


def _read_lines(path: Path) -> list[Any]:
    """Raises ValueError for a line that is not JSON, and for a last line that was not written to its end."""
    if not path.exists():
        return []
    text = path.read_text(encoding="utf-8")
    if text and not text.endswith("\n"):
        last = text.count("\n") + 1
        raise ValueError(f"{path}: line {last} was not written to its end; delete it, and its run is made again")
    values = []
    # a line ends with \n alone: names of data sets may hold other separators
    for number, line in enumerate(text.split("\n")[:-1], 1):
        try:
            values.append(json.loads(line))
        except ValueError as error:
            raise ValueError(f"{path}: line {number} is not JSON: {error}") from error
    return values


def _append_lines(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    if not lines:
        return
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    with path.open("ab", buffering=0) as file:
        size, content = file.tell(), text.encode()
        try:
            # a full disk may take a part of it
            while content:
                content = content[file.write(content) :]
            os.fsync(file.fileno())
        except OSError:
            file.truncate(size)
            raise


def latest(rows: Sequence[Row]) -> list[Row]:
    """The rows that were made as the last one was, one a seed: a recipe that changed starts its cell anew."""
    # rows are only ever appended: the last one was measured last
    last = rows[-1]
    same = [r for r in rows if (r.data_digest, r.recipe_digest) == (last.data_digest, last.recipe_digest)]
    # of two rows of one seed the later one stays
    return list({row.seed: row for row in same}.values())
