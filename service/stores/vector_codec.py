"""Query vectors as bytes: the key that names them, and a value that proves itself.

The key is a digest of all that can change the vectors. A value names its bundle and carries a checksum over itself and
its key, so old, torn, foreign or misdirected bytes are a miss, never an answer; nothing is unpickled.
"""

import struct
from array import array
from enum import StrEnum
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from model.records import History

PREFIX = b"qv:"
TAG_BYTES = 8
MAGIC, VERSION = b"RQV\n", 1
HEADER = struct.Struct("<4sB3x8sIII4x")  # magic, version, bundle tag, Q, D, P; then the checksum: 40 bytes, aligned
CHECKSUM_BYTES = 8


class CachedVectors(NamedTuple):
    """One user's row of QueryVectors; the arrays are read-only when they come from a cache."""

    vectors: NDArray[np.float32]  # (Q, D)
    prompts: NDArray[np.int64]  # (P,)

    @property
    def num_bytes(self) -> int:
        return self.vectors.nbytes + self.prompts.nbytes


class RejectReason(StrEnum):
    """The reason why a value was not used; the label of the refusal counter."""

    SIZE = "size"
    MAGIC = "magic"
    VERSION = "version"
    BUNDLE = "bundle"
    CHECKSUM = "checksum"
    NOT_FINITE = "not_finite"


def cache_key(bundle_digest: str, plan_digest: str, history: History) -> bytes:
    """Names the vectors of one history under one bundle and plan: prefix, 8 bytes of the bundle, 16 of the rest."""
    tag, begun = _begun(bundle_digest, plan_digest)
    rest = begun.copy()
    rest.update(array("q", (history.user, *history.items)).tobytes())
    return PREFIX + tag + rest.digest()


@lru_cache(maxsize=64)
def _begun(bundle_digest: str, plan_digest: str) -> "tuple[bytes, blake2b]":
    """The 8 bytes of the bundle, and the hash of the rest up to where the history follows; it is copied, not used."""
    tag = blake2b(bundle_digest.encode(), digest_size=TAG_BYTES).digest()
    # fixed widths: no two inputs run together
    return tag, blake2b(tag + blake2b(plan_digest.encode(), digest_size=16).digest(), digest_size=16)


def _tag_of(key: bytes) -> bytes:
    return key[len(PREFIX) : len(PREFIX) + TAG_BYTES]


def _checksum(key: bytes, header: bytes, payload: bytes) -> bytes:
    digest = blake2b(key, digest_size=CHECKSUM_BYTES)
    digest.update(header)
    digest.update(payload)
    return digest.digest()


def encode(key: bytes, value: CachedVectors) -> bytes:
    """The bytes stored under `key`."""
    (num_queries, width), num_prompts = value.vectors.shape, len(value.prompts)
    header = HEADER.pack(MAGIC, VERSION, _tag_of(key), num_queries, width, num_prompts)
    payload = value.prompts.astype("<i8").tobytes() + value.vectors.astype("<f4").tobytes()
    return header + _checksum(key, header, payload) + payload


def decode(key: bytes, data: bytes) -> CachedVectors | RejectReason:
    """The value that `encode` was given, or the reason why these bytes are not to be used."""
    start = HEADER.size + CHECKSUM_BYTES
    if len(data) < start:
        return RejectReason.SIZE
    header, checksum, payload = data[: HEADER.size], data[HEADER.size : start], data[start:]
    magic, version, tag, num_queries, width, num_prompts = HEADER.unpack(header)
    # the checksum comes after the lengths, so that its cost is spent on plausible values only
    checks = [
        (magic == MAGIC, RejectReason.MAGIC),
        (version == VERSION, RejectReason.VERSION),
        (tag == _tag_of(key), RejectReason.BUNDLE),
        (num_queries * width > 0 and len(payload) == 8 * num_prompts + 4 * num_queries * width, RejectReason.SIZE),
        (checksum == _checksum(key, header, payload), RejectReason.CHECKSUM),
    ]
    for passed, refusal in checks:
        if not passed:
            return refusal
    # views of bytes, hence read-only
    prompts = np.frombuffer(payload, "<i8", num_prompts)
    vectors = np.frombuffer(payload, "<f4", offset=8 * num_prompts).reshape(num_queries, width)
    return CachedVectors(vectors, prompts) if np.isfinite(vectors).all() else RejectReason.NOT_FINITE
