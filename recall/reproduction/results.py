"""A measured run as one row, and the file of rows: read whole, appended to in one step.

The file is a JSON list. A reader never sees a half-written one, two writers never lose each other's rows, and a run
that is interrupted has written nothing.
"""

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
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
        """What two rows share that measure the same thing."""
        run = (self.dataset, self.data_digest, self.system, self.recipe, self.recipe_digest, self.seed, self.split)
        return (*run, self.study, tuple(sorted(self.point.items())))

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

    def rows(self) -> list[Row]:
        """Raises ValueError, with the file's name, when it is not a list of rows."""
        if not self.path.exists():
            return []
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
            if not isinstance(content, list):
                raise ValueError("it is not a list")
            return [Row.from_json(values) for values in content]
        except ValueError as error:
            raise ValueError(f"{self.path} is not a file of rows: {error}") from error

    def append(self, rows: Sequence[Row]) -> None:
        """All of `rows` or none; what the file has already (`Row.key`) stays as it is."""
        with self._locked():
            known = self.rows()
            keys = {row.key for row in known}
            self._write([*known, *(row for row in rows if row.key not in keys)])

    def _write(self, rows: Sequence[Row]) -> None:
        text = json.dumps([row.to_json() for row in rows], indent=1, ensure_ascii=False)
        # beside the file, so on the same file system: only there is replacing it one step
        fresh = self.path.with_name(f"{self.path.name}.{os.getpid()}.tmp")
        fresh.write_text(text + "\n", encoding="utf-8")
        fresh.replace(self.path)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # the folder is what is locked: a lock file would stay behind
        self.path.parent.mkdir(parents=True, exist_ok=True)
        folder = os.open(self.path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            # closing gives the lock back, also when writing failed
            os.close(folder)


def latest(rows: Sequence[Row]) -> list[Row]:
    """Those that were made as the last one was: a recipe that changed starts its cell anew. One row a seed."""
    # rows are only ever appended: the last one was measured last
    last = rows[-1]
    alike = [r for r in rows if (r.data_digest, r.recipe_digest) == (last.data_digest, last.recipe_digest)]
    # of two rows of one seed the later one stays
    return list({row.seed: row for row in alike}.values())
