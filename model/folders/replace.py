"""One folder in the place of another, in one step where the system has such a step, and what a kill leaves behind."""

import ctypes
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from glob import escape
from pathlib import Path
from uuid import uuid4

from model.folders.files import sync

AT_CWD, RENAME_EXCHANGE = -100, 2  # of renameat2, Linux


@contextmanager
def folder_beside(target: Path) -> Iterator[Path]:
    """A new empty sibling of `target`, on the same file system; gone afterwards unless it was moved.

    Those of killed writers are deleted.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{escape(target.name)}.*.new"):
        with lock_folder(left) as is_free:
            if is_free:
                shutil.rmtree(left, ignore_errors=True)
    folder = target.parent / f".{target.name}.{uuid4().hex[:8]}.new"
    folder.mkdir()
    try:
        # held while this process writes, and let go by its death
        with lock_folder(folder):
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def lock_folder(folder: Path) -> Iterator[bool]:
    """Holds the lock of a folder within a `with` block; False where it is gone, or another process holds it."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_free = True
    except OSError:
        is_free = False
    try:
        yield is_free
    finally:
        os.close(descriptor)


def settled(target: Path) -> Path:
    """The folder that is `target`, or lies beside it after a crash within `replace_folder`."""
    return target if target.exists() or not _aside(target).exists() else _aside(target)


def replace_folder(new: Path, target: Path) -> None:
    """Moves `new` to `target`; what stood there is deleted afterwards. On an error the old one stands there again."""
    old = _aside(target)
    # what an earlier crash left behind: the only folder there is, or one that was already replaced
    if settled(target) == old:
        os.rename(old, target)
    shutil.rmtree(old, ignore_errors=True)
    if not target.exists():
        os.rename(new, target)
        sync(target.parent)
    elif exchange(new, target):
        sync(target.parent)
        shutil.rmtree(new, ignore_errors=True)
    else:
        _move_aside(new, target, old)


def _move_aside(new: Path, target: Path, old: Path) -> None:
    """Two steps, for file systems that cannot exchange; whoever reads between them finds the old one by `settled`."""
    os.rename(target, old)
    try:
        os.rename(new, target)
    except OSError:
        os.rename(old, target)
        raise
    sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def exchange(first: Path, second: Path) -> bool:
    """Makes each folder the other in one step; False where the system or the file system has no such step."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    return rename is not None and not rename(
        AT_CWD, os.fsencode(first.absolute()), AT_CWD, os.fsencode(second.absolute()), RENAME_EXCHANGE
    )


def _aside(target: Path) -> Path:
    return target.parent / f".{target.name}.old"
