"""A folder written whole and read whole: manifest.json binds its files by one digest.

    write_folder(CHECKPOINT, target, write)      # a kill at any moment leaves the old folder or the new one
    read_folder(CHECKPOINT, folder, read)        # or refuses it

Bundles have a manifest of their own (index/bundle). The digest proves that a folder is whole, not who wrote it.
"""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from model.folders.files import FileRecord, FolderRefused, list_files, record_file, sync_tree
from model.folders.replace import folder_beside, replace_folder, settled

T = TypeVar("T")
MANIFEST = "manifest.json"
NUM_TRIES = 3  # of reading a folder that another process keeps replacing


@dataclass(frozen=True, slots=True)
class FolderKind:
    """One kind of folder: its name in sentences, the command that makes one, and every file that it may hold."""

    name: str
    command: str
    files: tuple[str, ...]


def write_folder(kind: FolderKind, target: Path, write: Callable[[Path], None]) -> None:
    """Puts what `write` makes, and a manifest of it, in the place of what stands at `target`.

    Raises FolderRefused where `check_target` does; after an error the old folder stands as it was.
    """
    target = target.absolute()
    check_target(kind, target)
    with folder_beside(target) as folder:
        write(folder)
        files = {path: record_file(folder / path) for path in sorted(list_files(folder))}
        (folder / MANIFEST).write_bytes(_render(kind, files))
        sync_tree(folder)
        replace_folder(folder, target)


def check_target(kind: FolderKind, target: Path) -> None:
    """Raises FolderRefused where replacing `target` would lose something else than an older folder of its kind."""
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise FolderRefused(f"{target} is a link or a file; it is not replaced by a {kind.name}: name a folder")
    if not target.exists():
        return
    if os.path.ismount(target):
        raise FolderRefused(f"{target} is a mount point, which cannot be replaced in one step; name a folder inside it")
    if others := sorted(entry.name for entry in target.iterdir() if entry.name not in (*kind.files, MANIFEST)):
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise FolderRefused(
            f"{target} holds {others[0]!r}{more}, which is no part of a {kind.name}; it is not replaced: name a folder "
            "of its own"
        )


def read_folder(
    kind: FolderKind, folder: Path, read: Callable[[Path], T], is_bound: Callable[[Path], bool] = lambda _: True
) -> T:
    """The result of `read`, all of it of one version of the folder, even while another process replaces it.

    is_bound: tells of a folder whether it must have a manifest, which those of earlier versions lack.
    Raises FolderRefused when a file is not the manifest's; whatever `read` raises is passed on.
    """
    for _ in range(NUM_TRIES):
        root = settled(folder)
        before = _manifest_bytes(root)
        try:
            if is_bound(root) or before is not None:
                _check_bound(kind, folder, root, before)
            result = read(root)
        except (OSError, ValueError):
            if _manifest_bytes(settled(folder)) == before:
                raise
            continue
        if _manifest_bytes(settled(folder)) == before:
            return result
    raise FolderRefused(f"{folder} was replaced {NUM_TRIES} times while it was read; try again")


def _check_bound(kind: FolderKind, folder: Path, root: Path, manifest: bytes | None) -> None:
    again = f"make it again with `{kind.command}`"
    if manifest is None:
        raise FolderRefused(f"{folder} has no {MANIFEST}, so nothing says that its files belong together; {again}")
    files = _parse(manifest)
    if files is None or manifest != _render(kind, files):
        raise FolderRefused(f"{folder}: {MANIFEST} is damaged, or not that of a {kind.name}; {again}")
    present = list_files(root).keys() - {MANIFEST}
    for path in sorted(present | files.keys()):
        if path not in present:
            raise FolderRefused(f"{folder} is not whole: {path} missing; {again}")
        if path not in files or record_file(root / path) != files[path]:
            raise FolderRefused(f"{folder} is not whole: {path} is not the file that was saved with the rest; {again}")


def _render(kind: FolderKind, files: Mapping[str, FileRecord]) -> bytes:
    body = {"kind": kind.name, "files": {path: asdict(record) for path, record in files.items()}}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return (json.dumps(body | {"digest": digest}, indent=1, sort_keys=True) + "\n").encode()


def _parse(manifest: bytes) -> dict[str, FileRecord] | None:
    try:
        files: dict[str, Any] = json.loads(manifest)["files"]
        return {path: FileRecord(**record) for path, record in files.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _manifest_bytes(root: Path) -> bytes | None:
    try:
        return (root / MANIFEST).read_bytes()
    except FileNotFoundError:
        return None
