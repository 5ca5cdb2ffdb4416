"""A bundle on disk: listed without following links, hashed before it is parsed, replaced in one step."""

import hashlib
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path
from uuid import uuid4

from index.bundle.manifest import MANIFEST, BundleRefused, FileRecord, Manifest

MAX_MANIFEST_BYTES = 2**20


def list_files(root: Path) -> dict[str, int]:
    """Path inside `root` -> bytes, for every file below it.

    Raises BundleRefused for a link, a pipe, a device, or anything else that is not a plain file or folder.
    """
    sizes: dict[str, int] = {}
    for folder, folders, names in os.walk(root):
        for entry in (Path(folder, name) for name in folders + names):
            # a link is looked at itself, never what it points to
            facts = entry.lstat()
            if stat.S_ISREG(facts.st_mode):
                sizes[entry.relative_to(root).as_posix()] = facts.st_size
            elif not stat.S_ISDIR(facts.st_mode):
                raise BundleRefused(f"{entry.name!r} is a link or a special file")
    return sizes


def check_listing(sizes: dict[str, int], manifest: Manifest) -> None:
    """Raises BundleRefused unless `sizes` are those of the manifest's files, and of the manifest."""
    for path in sorted((sizes.keys() | manifest.files.keys()) - {MANIFEST}):
        if path not in sizes:
            raise BundleRefused(f"{path} is missing")
        if path not in manifest.files:
            raise BundleRefused(f"{path!r} is not in the manifest")
        if sizes[path] != manifest.files[path].num_bytes:
            raise BundleRefused(f"{path} has {sizes[path]} bytes, not {manifest.files[path].num_bytes}")


def read_manifest(root: Path) -> Manifest:
    if not os.path.lexists(root / MANIFEST):
        raise BundleRefused(f"{MANIFEST} is missing")
    with _open_plain(root / MANIFEST) as file:
        return Manifest.parse(file.read(MAX_MANIFEST_BYTES))


def read_checked(root: Path, path: str, record: FileRecord) -> bytes:
    """The bytes of a file, once, so that what was hashed is what gets parsed.

    Raises BundleRefused when their number or digest is not the recorded one.
    """
    with _open_plain(root / path) as file:
        data = file.read(record.num_bytes)
        whole = len(data) == record.num_bytes and not file.read(1)
    if not whole or hashlib.sha256(data).hexdigest() != record.sha256:
        raise BundleRefused(f"{path} does not match its sha256")
    return data


def check_file(root: Path, path: str, record: FileRecord) -> None:
    """Raises BundleRefused when the number or the digest of a file's bytes is not the recorded one. Keeps nothing."""
    if record_file(root / path) != record:
        raise BundleRefused(f"{path} does not match its sha256")


def record_file(path: Path) -> FileRecord:
    with _open_plain(path) as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return FileRecord(digest, file.tell())


def sync_tree(root: Path) -> None:
    """Returns once every file and folder below `root` is on the disk."""
    for folder, _, names in os.walk(root):
        for path in [folder, *(os.path.join(folder, name) for name in names)]:
            _sync(Path(path))


@contextmanager
def folder_beside(target: Path) -> Iterator[Path]:
    """A new empty sibling of `target`, on the same file system; gone afterwards unless it was moved."""
    target.parent.mkdir(parents=True, exist_ok=True)
    folder = target.parent / f".{target.name}.{uuid4().hex[:8]}.new"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def settled(target: Path) -> Path:
    """The folder the bundle lies in: `target`, or beside it after a crash within `replace_folder`."""
    return target if target.exists() or not _aside(target).exists() else _aside(target)


def replace_folder(new: Path, target: Path) -> None:
    """Moves `new` to `target`; what stood there is deleted afterwards. On an error the old one stands there again.

    Raises ValueError when something other than a bundle stands at `target`.
    """
    old = _aside(target)
    # what an earlier crash left behind: the only bundle there is, or one that was already replaced
    if settled(target) == old:
        os.rename(old, target)
    shutil.rmtree(old, ignore_errors=True)
    if os.path.lexists(target):
        if target.is_symlink() or not (target / MANIFEST).exists():
            raise ValueError(f"{target} is not a bundle; it is not replaced")
        os.rename(target, old)
    try:
        os.rename(new, target)
    except OSError:
        if old.exists():
            os.rename(old, target)
        raise
    _sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def _aside(target: Path) -> Path:
    return target.parent / f".{target.name}.old"


@contextmanager
def _open_plain(path: Path) -> Iterator[BufferedReader]:
    # a pipe would block an open without O_NONBLOCK
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise BundleRefused(f"{path.name} is not a plain file")
        yield file


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
