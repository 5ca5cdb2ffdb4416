"""The bundle's manifest: what it holds, where it came from, and a checksum for every file and for itself.

Checksums prove that a bundle is whole, not who wrote it: that is for its signature (signature.py), where one is asked
for, and for a folder that only those can write whom you trust.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from index.base import EXACT
from index.faiss_index import SearchEffort
from model.folders.files import FileRecord

FORMAT_VERSION = 2
INDEX, CHECKPOINT = "index.faiss", "checkpoint"
SIGNATURE = "manifest.sig"  # beside the manifest, which cannot list it
VECTORS, GOLDEN = "vectors.safetensors", "golden.safetensors"
# format version -> the files of vectors and golden queries; version 1 is read, not written
ARRAY_FILES = {1: ("vectors.npy", "golden.npz"), FORMAT_VERSION: (VECTORS, GOLDEN)}
# with the names above the whole path policy: no absolute path, no "..", no hidden file, no backslash can match
_PATH = re.compile(r"checkpoint(/[A-Za-z0-9_][A-Za-z0-9._-]*)+")
_CODE = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib", ".py", ".so")


class BundleRefused(ValueError):  # noqa: N818 - named for what happened to the bundle
    """A bundle that must not be served; the message is the reason in one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The content of manifest.json. Raises BundleRefused for a wrong type, a bad path or a missing file."""

    arm_kind: str  # "recgpt", "comirec", ...
    created: str  # ISO 8601; the only field outside the digest
    data_digest: str
    config_digest: str
    code_version: str
    metrics: Mapping[str, float]
    num_items: int  # N
    dim: int  # D
    num_queries: int  # Q
    index_spec: str
    effort: SearchEffort
    recall_floor: float  # least golden recall of the index against exact hits
    files: Mapping[str, FileRecord]
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.format_version not in tuple(ARRAY_FILES):
            known = f"this code reads {' and '.join(map(str, ARRAY_FILES))}: build it again with `recall build`"
            raise BundleRefused(f"its format version is {self.format_version!r}; {known}")
        _check_types(self)
        arrays = ARRAY_FILES[self.format_version]
        for path in self.files:
            _check_path(path, (*arrays, INDEX))
        missing = {*arrays} - self.files.keys()
        if missing or not any(path.startswith(CHECKPOINT) for path in self.files):
            raise BundleRefused(f"the manifest lists no {min(missing, default=CHECKPOINT)}")
        if (INDEX in self.files) == (self.index_spec == EXACT):
            raise BundleRefused(f"the files do not fit the index spec {self.index_spec!r}")

    @property
    def vectors_file(self) -> str:
        return ARRAY_FILES[self.format_version][0]

    @property
    def golden_file(self) -> str:
        return ARRAY_FILES[self.format_version][1]

    @property
    def digest(self) -> str:
        """Names the content: equal for two builds of the same inputs at different times."""
        return _sha256({name: value for name, value in asdict(self).items() if name != "created"})

    def render(self) -> bytes:
        body = asdict(self)
        return _canonical(body | {"checksum": _sha256(body)})

    @classmethod
    def parse(cls, data: bytes) -> "Manifest":
        """The manifest in the bytes of manifest.json.

        Raises ValueError, mostly BundleRefused, unless they are, bit for bit, what `render` wrote.
        """
        body = _loads(data)
        # the bytes are compared too: a flipped bit in white space leaves the parsed fields as they were
        checksum = body.pop("checksum", None)
        if checksum != _sha256(body) or data != _canonical(body | {"checksum": checksum}):
            raise BundleRefused("manifest.json does not match its own checksum")
        try:
            files = {path: FileRecord(**record) for path, record in body.pop("files").items()}
            return cls(files=files, effort=SearchEffort(**body.pop("effort")), **body)
        except (TypeError, KeyError, AttributeError) as error:
            raise BundleRefused(f"manifest.json has other fields than this code reads: {error}") from error


def _check_types(manifest: Manifest) -> None:
    for field in fields(manifest):
        value = getattr(manifest, field.name)
        if field.type is str and not isinstance(value, str):
            raise BundleRefused(f"{field.name} is {value!r}, not a string")
        # bool is an int to isinstance, and true is no number of items
        if field.type is int and (type(value) is not int or value < 1):
            raise BundleRefused(f"{field.name} is {value!r}, not a number of at least 1")
    if not isinstance(manifest.recall_floor, float) or not 0 < manifest.recall_floor <= 1:
        raise BundleRefused(f"recall_floor is {manifest.recall_floor!r}, not a share above 0")
    if not all(isinstance(value, int | float) for value in manifest.metrics.values()):
        raise BundleRefused("the metrics are not all numbers")


def _check_path(path: str, own: tuple[str, ...]) -> None:
    if path not in own and not _PATH.fullmatch(path):
        raise BundleRefused(f"the manifest lists {path!r}, which has no place in a bundle")
    if path.lower().endswith(_CODE):
        raise BundleRefused(f"{path} can carry code; a bundle holds data only")


def _canonical(body: Mapping[str, Any]) -> bytes:
    return (json.dumps(body, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def _sha256(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(body)).hexdigest()


def _loads(data: bytes) -> dict[str, Any]:
    try:
        body = json.loads(data)
        _canonical(body)  # refuses NaN and infinities, which Python's JSON takes
    except (ValueError, RecursionError) as error:
        raise BundleRefused("manifest.json is not JSON") from error
    if not isinstance(body, dict):
        raise BundleRefused("manifest.json is not a JSON object")
    return body
