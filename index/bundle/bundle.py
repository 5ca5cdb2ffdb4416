"""The atomic release: a folder with a checkpoint, item vectors, index and golden queries, whole or refused.

    manifest = write_bundle(Path("bundles/recgpt"), contents)
    bundle = open_bundle(Path("bundles/recgpt"))
    bundle.replay(encoder.encode)

Nothing in a bundle is executed or unpickled, and no file is parsed before its size and sha256 were checked.
Knows nothing of networks: the checkpoint's files are opaque here, and the encoder comes from the caller.
"""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from index.base import EXACT, ItemIndex
from index.bundle.files import (
    check_file,
    check_listing,
    check_target,
    manifest_bytes,
    read_checked,
    read_manifest,
)
from index.bundle.golden import Encode, GoldenQueries
from index.bundle.manifest import CHECKPOINT, GOLDEN, INDEX, SIGNATURE, VECTORS, BundleRefused, Manifest
from index.bundle.signature import SigningKey, TrustedKeys
from index.bundle.tensors import read_arrays, save_arrays
from index.checks import check_items
from index.evaluate import Probes
from index.exact import ExactIndex
from index.factory import place
from index.faiss_index import DEFAULT_EFFORT, FaissIndex
from model.folders.files import list_files, record_file, sync_tree, write_file
from model.folders.replace import folder_beside, replace_folder, settled
from model.folders.whole import MANIFEST, NUM_TRIES

__all__ = [
    "Bundle",
    "BundleContents",
    "BundleRefused",
    "GoldenQueries",
    "Manifest",
    "open_bundle",
    "sign_bundle",
    "write_bundle",
]

RECALL_FLOOR = 0.9
SPOT_QUERIES, SPOT_HITS, SPOT_FLOOR = 16, 10, 0.5  # an index over other vectors finds next to nothing


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True, eq=False, kw_only=True)
class BundleContents:
    """The parts of a bundle to be. The checkpoint folder is copied as it is: plain files, no links, nothing pickled."""

    arm_kind: str
    checkpoint: Path
    vectors: NDArray[np.float32]  # (N, D), row 1 first
    index: ItemIndex  # over these vectors: an ExactIndex or a FaissIndex
    golden: GoldenQueries
    data_digest: str
    config_digest: str
    code_version: str
    metrics: Mapping[str, float]
    recall_floor: float = RECALL_FLOOR
    created: str = field(default_factory=_now)


@dataclass(frozen=True, eq=False)
class Bundle:
    """An opened bundle: checked, in memory, never changed. Only `checkpoint_path` still points to the disk."""

    path: Path
    manifest: Manifest
    index: ItemIndex
    exact: ExactIndex  # over the bundle's vectors: the oracle, and `index` itself where that is exact
    golden: GoldenQueries
    signed_by: str | None = None  # name of the trusted key; None where nobody was asked for

    @property
    def vectors(self) -> NDArray[np.float32]:
        """(N, D) on the host, read-only."""
        view = self.exact.vectors
        view.setflags(write=False)
        return view

    @property
    def digest(self) -> str:
        return self.manifest.digest

    @property
    def short_digest(self) -> str:
        """16 hexadecimal digits: for replies, logs and cache keys."""
        return self.digest[:16]

    @property
    def checkpoint_path(self) -> Path:
        return self.path / CHECKPOINT

    def over(self, table: Tensor) -> "Bundle":
        """The same bundle with its exact index in the memory of the network's table (N, D), where those are equal.

        The memory that the vectors were read into is then free when the first bundle goes.
        """
        exact = self.exact.over(table)
        return replace(self, exact=exact, index=exact if self.index is self.exact else self.index)

    def replay(self, encode: Encode) -> None:
        """Encodes the golden histories again: the proof that the caller's encoder belongs to these item vectors.

        Raises BundleRefused when the vectors differ from the stored ones by more than 1e-3 of the largest component.
        """
        self.golden.check_encoder(encode)


def open_bundle(path: Path, device: str = "cpu", trusted: TrustedKeys | None = None) -> Bundle:
    """A bundle that passed every check, its index on `device`. trusted: those of whom one has to have signed it.

    Raises BundleRefused, with the reason in one sentence, for anything else; nothing was served or run by then.
    """
    for attempt in range(NUM_TRIES):
        before = _manifest_digest(path)
        try:
            return _open(path, device, trusted)
        except (OSError, ImportError, ValueError) as error:
            # read while it was replaced: the new one is asked for, and neither is refused
            if attempt + 1 == NUM_TRIES or _manifest_digest(path) == before:
                raise BundleRefused(f"bundle {path} is refused: {error}") from error
    raise AssertionError("the last try returns or raises")


def _manifest_digest(path: Path) -> str | None:
    try:
        return read_manifest(settled(path)).digest
    except (OSError, ValueError):
        return None


def _open(path: Path, device: str, trusted: TrustedKeys | None) -> Bundle:
    root = settled(path).resolve(strict=True)
    sizes = list_files(root)
    # checked before anything is parsed, and these very bytes are
    written = manifest_bytes(root)
    signer = trusted.check(root, written) if trusted else None
    manifest = Manifest.parse(written)
    check_listing(sizes, manifest)
    data = _read_parts(root, manifest)
    # taken out: the bytes of a large catalogue are not held while the index is read
    vectors = _parse_vectors(data.pop(manifest.vectors_file), manifest)
    # beside an approximate index single queries are asked now and then, to watch it
    exact = ExactIndex(vectors, device, sifts=manifest.index_spec == EXACT)
    golden = GoldenQueries.parse(data[manifest.golden_file], manifest)
    index = _parse_index(data.get(INDEX), exact, manifest, device)
    _check_spots(index, exact, manifest.recall_floor)
    golden.check_index(index, manifest.recall_floor)
    return Bundle(root, manifest, index, exact, golden, signer)


def write_bundle(target: Path, contents: BundleContents, signing: SigningKey | None = None) -> Manifest:
    """Writes a bundle beside `target`, opens it as a server would, then puts it in the place of what stood there.

    signing: signs it. After an error or a crash the old bundle still opens. Raises BundleRefused for contents that
    would be refused later, ValueError when `target` is something else than a bundle.
    """
    check_items(contents.vectors)
    target = target.absolute()
    check_target(target)
    with folder_beside(target) as folder:
        _write_parts(folder, contents)
        manifest = _describe(folder, contents)
        (folder / MANIFEST).write_bytes(manifest.render())
        if signing:
            (folder / SIGNATURE).write_bytes(signing.sign(manifest.render()))
        sync_tree(folder)
        # nothing that a server would refuse is ever put in the old one's place
        open_bundle(folder)
        replace_folder(folder, target)
    return manifest


def sign_bundle(path: Path, signing: SigningKey) -> Manifest:
    """Signs a bundle that is there, once it has passed every check. Raises BundleRefused where it does not."""
    bundle = open_bundle(path)
    written = manifest_bytes(bundle.path)
    if Manifest.parse(written).digest != bundle.digest:
        raise BundleRefused(f"bundle {path} was replaced while it was signed")
    write_file(bundle.path / SIGNATURE, lambda fresh: fresh.write_bytes(signing.sign(written)))
    return bundle.manifest


def _read_parts(root: Path, manifest: Manifest) -> dict[str, bytes]:
    parts = {}
    for path, record in manifest.files.items():
        if path.startswith(CHECKPOINT):
            check_file(root, path, record)
        else:
            parts[path] = read_checked(root, path, record)
    return parts


def _parse_vectors(data: bytes, manifest: Manifest) -> NDArray[np.float32]:
    vectors: NDArray[np.float32] = read_arrays(data, {"vectors": "<f4"}, manifest.format_version)["vectors"]
    if vectors.shape != (manifest.num_items, manifest.dim):
        raise BundleRefused(f"the vectors have shape {vectors.shape}, not ({manifest.num_items}, {manifest.dim})")
    # one pass finds NaN, infinities, lengths that overflow, and zero rows
    squares = np.einsum("nd,nd->n", vectors, vectors)
    if not np.isfinite(squares).all():
        raise BundleRefused(f"the vector of item row {int(np.isfinite(squares).argmin()) + 1} is not finite")
    if not squares.all():
        raise BundleRefused(f"the vector of item row {int(squares.argmin()) + 1} is zero")
    return vectors


def _parse_index(data: bytes | None, exact: ExactIndex, manifest: Manifest, device: str) -> ItemIndex:
    if data is None:
        return exact
    file, shape = np.frombuffer(data, dtype=np.uint8), (manifest.num_items, manifest.dim)
    return place(FaissIndex.parse(file, manifest.index_spec, manifest.effort, shape), device)


def _check_spots(index: ItemIndex, exact: ExactIndex, floor: float) -> None:
    if index is exact:
        return
    vectors = exact.vectors
    spots = np.linspace(0, len(vectors) - 1, min(SPOT_QUERIES, len(vectors)), dtype=np.int64)
    # items spread over the catalogue ask for their own neighbours: an index of another catalogue does not find them
    recall = Probes.of(exact, vectors[spots], SPOT_HITS).recall(index)
    if not recall >= min(SPOT_FLOOR, floor):
        raise BundleRefused(f"the index finds {recall:.3f} of the neighbours of its own items")


def _write_parts(folder: Path, contents: BundleContents) -> None:
    for path in list_files(contents.checkpoint):
        copy = folder / CHECKPOINT / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(contents.checkpoint / path, copy)
    save_arrays(folder / VECTORS, {"vectors": contents.vectors.astype("<f4", copy=False)})
    contents.golden.save(folder / GOLDEN)
    if isinstance(contents.index, FaissIndex):
        contents.index.save(folder / INDEX)


def _describe(folder: Path, contents: BundleContents) -> Manifest:
    return Manifest(
        arm_kind=contents.arm_kind,
        created=contents.created,
        data_digest=contents.data_digest,
        config_digest=contents.config_digest,
        code_version=contents.code_version,
        metrics=dict(contents.metrics),
        num_items=contents.vectors.shape[0],
        dim=contents.vectors.shape[1],
        num_queries=contents.golden.vectors.shape[1],
        index_spec=contents.index.spec,
        effort=contents.index.effort if isinstance(contents.index, FaissIndex) else DEFAULT_EFFORT,
        recall_floor=contents.recall_floor,
        files={path: record_file(folder / path) for path in list_files(folder)},
    )
