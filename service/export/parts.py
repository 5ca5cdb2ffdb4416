"""A Parquet file that is written part by part, survives kills, and is there whole or not at all.

    .lists.parquet.unfinished/plan.json         what decides the lists
    .lists.parquet.unfinished/00000017.arrow    a part that is done: it had its name only when it was on the disk
    lists.parquet                               all parts, once the last of them is done; then the folder is gone

Parts end at the same users in every run, and a part's lists do not depend on the parts before: a file that was
interrupted a hundred times is the file that never was.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from model.folders.files import FolderRefused, sync, write_file
from model.folders.replace import lock_folder

ZSTD_LEVEL = 1  # higher ones take longer and make lists no smaller
PLAN, WHOLE = "plan.json", "whole.parquet"
Facts = Mapping[str, str | int | None]


def unfinished_folder(output: Path) -> Path:
    """The folder beside a file in which its parts lie; gone when the file is there."""
    output = output.absolute()
    return output.with_name(f".{output.name}.unfinished")


@dataclass(frozen=True)
class PartFolder:
    """The parts of one file, under this process's lock."""

    path: Path
    output: Path
    was_other: bool = False  # it held the parts of other facts, which are gone

    @classmethod
    @contextmanager
    def opened(cls, output: Path, facts: Facts, resumes: bool = True) -> "Iterator[PartFolder]":
        """The folder with the parts that an earlier run with the same facts has left; else, or if not `resumes`, empty.

        Raises FolderRefused while another process writes the same file.
        """
        path = unfinished_folder(output)
        path.mkdir(parents=True, exist_ok=True)
        with lock_folder(path) as is_free:
            if not is_free:
                raise FolderRefused(f"{output} is being written by another process")
            parts = cls(path, output.absolute())
            if not resumes or parts.facts() != facts:
                had_any = parts._clear()
                parts = cls(path, output.absolute(), was_other=had_any and resumes)
                write_file(path / PLAN, lambda fresh: fresh.write_text(json.dumps(facts), encoding="utf-8"))
            yield parts

    def facts(self) -> Facts | None:
        """The facts that its parts follow from; None where nothing tells them."""
        try:
            facts: Facts = json.loads((self.path / PLAN).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return facts

    def has(self, number: int) -> bool:
        return self._file(number).exists()

    def write(self, number: int, frame: pl.DataFrame) -> None:
        """Puts a part on the disk, in one step."""
        # Arrow, not Parquet: a part is read once and soon, and costs half as much to write and join
        write_file(self._file(number), lambda path: frame.write_ipc(path, compression="lz4"))

    def finish(self, num_parts: int, rows_a_group: int) -> None:
        """Joins the parts, in their order, to the file, which takes the place of an older one; the folder is gone.

        Raises FolderRefused for a part that cannot be read.
        """
        whole = self.path / WHOLE
        files = [self._file(number) for number in range(num_parts)]
        try:
            # in one order and in groups of one size, whoever joins them: the same bytes
            pl.scan_ipc(files, glob=False).sink_parquet(
                whole, compression_level=ZSTD_LEVEL, row_group_size=rows_a_group, maintain_order=True
            )
        except pl.exceptions.PolarsError as error:
            reason = str(error).splitlines()[0]
            raise FolderRefused(f"a part in {self.path} cannot be read ({reason}); --no-resume starts anew") from error
        sync(whole)
        os.replace(whole, self.output)
        sync(self.output.parent)
        shutil.rmtree(self.path, ignore_errors=True)

    def _file(self, number: int) -> Path:
        return self.path / f"{number:08}.arrow"

    def _clear(self) -> bool:
        """Empties the folder; tells if there was anything in it."""
        left = list(self.path.iterdir())
        for path in left:
            path.unlink()
        return bool(left)


def check_output(output: Path, *inputs: Path) -> None:
    """Raises FolderRefused for a file that must not be written: of another kind, or among what it is made from."""
    if output.suffix != ".parquet":
        raise FolderRefused(f"{output} does not end in .parquet, which the lists are written as")
    if output.is_symlink() or (output.exists() and not output.is_file()):
        raise FolderRefused(f"{output} is a link or a folder; it is not replaced by a file of lists: name a file")
    for path in inputs:
        if output.absolute().is_relative_to(path.absolute()):
            raise FolderRefused(f"{output} would lie in {path}, which it is made from: name a file elsewhere")
