"""Blocks of requests and of answers as they travel: columns as bytes, in little-endian numbers.

What does not fit together raises `BadMessage`, never anything else. A deadline travels as the seconds that are left,
since the clocks of two processes need not agree.
"""

import struct
import time

import msgspec
import numpy as np
from numpy.typing import NDArray

from model.columns import Columns
from model.merging import Merged
from model.records import SoftItems
from model.rules import NO_RULES, ListRules
from service.engine.blocks import RequestBlock, ResultBlock
from service.engine.messages import EngineRequest, EngineResult
from service.errors import (
    BadRequest,
    CatalogueBehind,
    DeadlineExceeded,
    EngineFailed,
    Overloaded,
    RecallError,
    ReloadRefused,
    ReloadUnderWay,
    StaleRelease,
    UnknownArm,
)
from service.lists.reasons import Reasons
from service.stores.vector_codec import CachedVectors

KINDS = (
    BadRequest,
    CatalogueBehind,
    DeadlineExceeded,
    EngineFailed,
    Overloaded,
    ReloadRefused,
    ReloadUnderWay,
    StaleRelease,
    UnknownArm,
)
ERRORS: dict[str, type[RecallError]] = {kind.code: kind for kind in KINDS}
INTEGER = struct.Struct("<i")
PackedReasons = tuple[bytes, bytes, bytes, int, bytes, bytes]  # the columns of Reasons; P, and those of its soft items


class BadMessage(Exception):  # noqa: N818 - named for what it says; it never reaches a client
    """A message between processes cannot be read; it is dropped and counted."""


class AskBlock(msgspec.Struct, tag="ask", array_like=True, frozen=True):
    """Requests of an HTTP process for one arm, in rows of one bundle's catalogue; columns as in model/columns.py."""

    number: int
    arm: str
    bundle: str  # that the rows belong to; the engine computes for no other
    left_s: float | None  # until the deadline; None = there is none
    items: bytes  # (T,) int32, as all columns but one
    lengths: bytes  # (B,)
    users: bytes  # (B,)
    limits: bytes  # (B,)
    own: bytes  # (B,) booleans, a byte each
    others: bytes  # (E,)
    other_lengths: bytes  # (B,)
    keys: list[bytes] = []  # (B,), or none
    rules: ListRules = NO_RULES
    min_catalogue: int = 0
    explain: bool = False
    wants_vectors: bool = True  # lists are answered without
    is_bulk: bool = False

    @classmethod
    def of(cls, number: int, arm: str, bundle: str, block: RequestBlock) -> "AskBlock":
        columns = block.columns
        return cls(
            number,
            arm,
            bundle,
            _left(block.deadline),
            _bytes(columns.items),
            _bytes(columns.lengths),
            _bytes(columns.users),
            _bytes(columns.limits),
            columns.own.tobytes(),
            _bytes(columns.others),
            _bytes(columns.other_lengths),
            list(block.keys),
            block.rules,
            block.min_catalogue,
            block.explain,
            wants_vectors=not columns.limits.all(),
            is_bulk=block.is_bulk,
        )

    @classmethod
    def single(cls, number: int, arm: str, bundle: str, request: EngineRequest) -> "AskBlock":
        """The same for one request, at a third of the cost. Raises struct.error for rows that 32 bits do not hold."""
        # the same object says that history and exclusions are one list, which then travels once
        history, own = request.history, request.excluded is request.history.items
        others = () if own else request.excluded
        return cls(
            number,
            arm,
            bundle,
            _left(request.deadline),
            struct.pack(f"<{len(history.items)}i", *history.items),
            INTEGER.pack(len(history.items)),
            INTEGER.pack(history.user),
            INTEGER.pack(request.limit),
            b"\1" if own else b"\0",
            struct.pack(f"<{len(others)}i", *others),
            INTEGER.pack(len(others)),
            [] if request.key is None else [request.key],
            request.rules,
            request.min_catalogue,
            request.explain,
            wants_vectors=not request.limit,
            is_bulk=request.is_bulk,
        )

    def block(self) -> RequestBlock:
        """Raises BadMessage where the columns do not fit together."""
        size = len(self.own)
        try:
            # as numbers without a sign, so that none below 0 can hide in a sum
            counted = [4 * sum(struct.unpack(f"<{size}I", column)) for column in (self.lengths, self.other_lengths)]
            fits = counted == [len(self.items), len(self.others)] and len(self.users) == len(self.limits) == 4 * size
            if not size or not fits or len(self.keys) not in (0, size):
                raise BadMessage("the columns of a block do not fit together")
            columns = Columns(
                _integers(self.items),
                _integers(self.lengths),
                _integers(self.users),
                _integers(self.limits),
                np.frombuffer(self.own, np.bool_),
                _integers(self.others),
                _integers(self.other_lengths),
            )
        except (ValueError, struct.error) as error:
            raise BadMessage(f"a block holds no columns: {error}") from error
        deadline = float("inf") if self.left_s is None else time.monotonic() + self.left_s
        told = self.rules, self.min_catalogue, self.explain
        return RequestBlock(columns, deadline, self.keys, *told, is_bulk=self.is_bulk)


def _left(deadline: float) -> float | None:
    return None if deadline == float("inf") else deadline - time.monotonic()


class AnswerBlock(msgspec.Struct, tag="answer", array_like=True, frozen=True):
    """The results of one `AskBlock`; columns as in service/engine/blocks.py."""

    number: int
    lengths: bytes  # (B,) int32
    rows: bytes  # (B, L) int32
    scores: bytes  # (B, L) float32
    sources: bytes  # (B, L) int16
    num_queries: int
    vectors: bytes  # (B, Q, D) float32; empty where they were not wanted
    prompts: bytes  # (B, P) int32
    known: bytes  # (B,) booleans, a byte each
    timings_ms: dict[str, float]
    errors: list[tuple[int, str, str]] = []  # of users without an answer: place, code, message
    catalogue: int = 0
    reasons: list[PackedReasons | None] = []  # (B,), or none
    cheap: list[bool] = []  # (B,), or none

    @classmethod
    def of(cls, number: int, result: ResultBlock, wants_vectors: bool = True) -> "AnswerBlock":
        return cls(
            number,
            _bytes(result.lengths),
            _bytes(result.rows),
            result.scores.astype("<f4", copy=False).tobytes(),
            result.sources.astype("<i2", copy=False).tobytes(),
            result.vectors.shape[1],
            result.vectors.astype("<f4", copy=False).tobytes() if wants_vectors else b"",
            _bytes(result.prompts),
            result.known.tobytes(),
            dict(result.timings_ms),
            [(place, error.code, str(error)) for place, error in result.errors.items()],
            result.catalogue,
            [None if reasons is None else _packed_reasons(reasons) for reasons in result.reasons],
            list(result.cheap),
        )

    def result(self) -> ResultBlock:
        """Raises BadMessage where the bytes are not the arrays they should be."""
        size = len(self.known)
        try:
            lengths, rows, prompts = (_integers(data) for data in (self.lengths, self.rows, self.prompts))
            scores, sources = np.frombuffer(self.scores, "<f4"), np.frombuffer(self.sources, "<i2")
            # ZeroDivisionError for an answer to nobody is caught with the rest
            width = len(rows) // size
            if not len(lengths) == size or not 0 <= lengths.min() <= lengths.max() <= width:
                raise BadMessage("an answer holds lists of different length")
            vectors = np.frombuffer(self.vectors, "<f4").reshape(
                size, self.num_queries if self.vectors else 0, -1 if self.vectors else 0
            )
            return ResultBlock(
                lengths,
                rows.reshape(size, width),
                scores.reshape(size, width),
                sources.reshape(size, width),
                vectors,
                prompts.reshape(size, len(prompts) // size),
                np.frombuffer(self.known, np.bool_),
                self.timings_ms,
                {place: error_of(code, message) for place, code, message in self.errors},
                self.catalogue,
                [_reasons(own, length) for own, length in zip(self.reasons, lengths.tolist(), strict=False)],
                self._cheap(size),
            )
        except (ValueError, ZeroDivisionError) as error:
            raise BadMessage(f"an answer holds no arrays: {error}") from error

    def single(self) -> EngineResult:
        """The result of a single request, at a third of the cost. Raises BadMessage, or the error that answers it."""
        # a block of one has one error at most
        for _, code, message in self.errors:
            raise error_of(code, message)
        try:
            [length] = _integers(self.lengths)
            rows, scores, sources = (
                _integers(self.rows),
                np.frombuffer(self.scores, "<f4"),
                np.frombuffer(self.sources, "<i2"),
            )
            vectors = np.frombuffer(self.vectors, "<f4").reshape(
                self.num_queries if self.vectors else 0, -1 if self.vectors else 0
            )
            prompts = _integers(self.prompts).astype(np.int64)
            reasons = _reasons(self.reasons[0], int(length)) if self.reasons else None
        except ValueError as error:
            raise BadMessage(f"an answer holds no arrays: {error}") from error
        if not len(rows) == len(scores) == len(sources) >= length >= 0 or len(self.known) != 1:
            raise BadMessage("an answer holds lists of different length")
        merged = Merged(rows[:length].astype(np.int64), scores[:length], sources[:length].astype(np.int64))
        cached, known = CachedVectors(vectors, prompts), self.known != b"\0"
        return EngineResult(cached, merged, self.timings_ms, known, self.catalogue, reasons, any(self._cheap(1)))

    def _cheap(self, size: int) -> list[bool]:
        """Raises BadMessage where it is no column of so many users."""
        if len(self.cheap) not in (0, size):
            raise BadMessage("an answer tells of the plan of other users")
        return self.cheap


def _packed_reasons(reasons: Reasons) -> PackedReasons:
    columns = (reasons.similar, reasons.ranks, reasons.soft.rows)
    similar, ranks, soft = (column.astype("<i8", copy=False).tobytes() for column in columns)
    shares, weights = (part.astype("<f4", copy=False).tobytes() for part in (reasons.shares, reasons.soft.weights))
    return similar, shares, ranks, len(reasons.soft.rows), soft, weights


def _reasons(parts: PackedReasons | None, length: int) -> Reasons | None:
    """Raises ValueError for bytes that are no columns of `length` rows."""
    if parts is None:
        return None
    similar, shares, ranks, num_soft, soft, weights = parts
    shape = (length, -1) if length else (0, 1)
    # a negative number would be another shape
    of_soft = (num_soft, -1) if num_soft > 0 else (0, 1)
    return Reasons(
        np.frombuffer(similar, "<i8").reshape(shape),
        np.frombuffer(shares, "<f4").reshape(shape),
        np.frombuffer(ranks, "<i8").reshape(shape),
        SoftItems(np.frombuffer(soft, "<i8").reshape(of_soft), np.frombuffer(weights, "<f4").reshape(of_soft)),
    )


def error_of(code: str, message: str) -> RecallError:
    # a code of a later version: the reason is kept in words, the caller hears that the engine failed
    return ERRORS.get(code, EngineFailed)(message)


def _bytes(column: NDArray[np.int32]) -> bytes:
    return column.astype("<i4", copy=False).tobytes()


def _integers(data: bytes) -> NDArray[np.int32]:
    return np.frombuffer(data, "<i4")
