"""A bundle on disk: its listing against its manifest, and each file hashed before it is parsed."""

import hashlib
import os
from pathlib import Path

from index.bundle.manifest import CHECKPOINT, SIGNATURE, BundleRefused, Manifest
from model.folders.files import FileRecord, open_plain, record_file
from model.folders.whole import MANIFEST

MAX_MANIFEST_BYTES = 2**20


def check_target(target: Path) -> None:
    """Raises ValueError when something other than a bundle stands at `target`: it would be lost."""
    is_bundle = (target / MANIFEST).exists() and (target / CHECKPOINT).is_dir()
    if os.path.lexists(target) and (target.is_symlink() or not is_bundle):
        raise ValueError(f"{target} is not a bundle; it is not replaced")


def check_listing(sizes: dict[str, int], manifest: Manifest) -> None:
    """Raises BundleRefused unless `sizes` are those of the manifest's files, of the manifest, and of its signature."""
    for path in sorted((sizes.keys() | manifest.files.keys()) - {MANIFEST, SIGNATURE}):
        if path not in sizes:
            raise BundleRefused(f"{path} is missing")
        if path not in manifest.files:
            raise BundleRefused(f"{path!r} is not in the manifest")
        if sizes[path] != manifest.files[path].num_bytes:
            raise BundleRefused(f"{path} has {sizes[path]} bytes, not {manifest.files[path].num_bytes}")


def read_manifest(root: Path) -> Manifest:
    return Manifest.parse(manifest_bytes(root))


def manifest_bytes(root: Path) -> bytes:
    if not os.path.lexists(root / MANIFEST):
        raise BundleRefused(f"{MANIFEST} is missing")
    with open_plain(root / MANIFEST) as file:
        return file.read(MAX_MANIFEST_BYTES)


def read_checked(root: Path, path: str, record: FileRecord) -> bytes:
    """The bytes of a file, once, so that what was hashed is what gets parsed.

    Raises BundleRefused when their number or digest is not the recorded one.
    """
    with open_plain(root / path) as file:
        data = file.read(record.num_bytes)
        whole = len(data) == record.num_bytes and not file.read(1)
    if not whole or hashlib.sha256(data).hexdigest() != record.sha256:
        raise BundleRefused(f"{path} does not match its sha256")
    return data


def check_file(root: Path, path: str, record: FileRecord) -> None:
    """Raises BundleRefused when the number or the digest of a file's bytes is not the recorded one. Keeps nothing."""
    if record_file(root / path) != record:
        raise BundleRefused(f"{path} does not match its sha256")
