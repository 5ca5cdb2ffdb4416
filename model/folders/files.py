"""Files below a folder: listed without following links, hashed, brought to the disk, replaced in one step."""

import hashlib
import os
import re
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

SHA256 = re.compile("[0-9a-f]{64}")
FRESH = ".tmp"  # ends the name of a file that is being written
Stamp = tuple[int, int, int]  # inode, size, time of the last change in ns


class FolderRefused(ValueError):  # noqa: N818 - named for what happened to the folder
    """A folder that is not what it should be, or must not be replaced; the message is the reason in one sentence."""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file of a folder."""

    sha256: str
    num_bytes: int

    def __post_init__(self) -> None:
        if type(self.sha256) is not str or not SHA256.fullmatch(self.sha256) or type(self.num_bytes) is not int:
            raise FolderRefused("the manifest records a file without a sha256 and a size")


def list_files(root: Path) -> dict[str, int]:
    """Path inside `root` -> bytes, for every file below it.

    Raises FolderRefused for a link, a pipe, a device, or anything else that is not a plain file or folder.
    """
    sizes: dict[str, int] = {}
    for folder, folders, names in os.walk(root):
        for entry in (Path(folder, name) for name in folders + names):
            # a link is looked at itself, never what it points to
            facts = entry.lstat()
            if stat.S_ISREG(facts.st_mode):
                sizes[entry.relative_to(root).as_posix()] = facts.st_size
            elif not stat.S_ISDIR(facts.st_mode):
                raise FolderRefused(f"{entry.name!r} is a link or a special file")
    return sizes


def record_file(path: Path) -> FileRecord:
    with open_plain(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileRecord(digest, file.tell())


@contextmanager
def open_plain(path: Path) -> Iterator[BufferedReader]:
    """A plain file for reading.

    Raises FolderRefused for a pipe and OSError for a link.
    """
    # a pipe would block an open without O_NONBLOCK
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise FolderRefused(f"{path.name} is not a plain file")
        yield file


def stamp_of(path: Path) -> Stamp | None:
    """The mark by which another file in the same place is known; None where there is none."""
    try:
        facts = path.stat()
    except OSError:
        return None
    return facts.st_ino, facts.st_size, facts.st_mtime_ns


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Puts the file that `write` makes in the place of `path`, in one step and on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # of this process alone: runs side by side may write the same file
    fresh = path.with_name(f".{path.name}.{os.getpid()}{FRESH}")
    try:
        write(fresh)
        sync(fresh)
        os.replace(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)
    sync(path.parent)


def sync_tree(root: Path) -> None:
    """Returns once every file and folder below `root` is on the disk."""
    for folder, _, names in os.walk(root):
        for path in [folder, *(os.path.join(folder, name) for name in names)]:
            sync(Path(path))


def sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
