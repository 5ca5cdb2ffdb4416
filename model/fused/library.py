"""The compiled library of this room, and the records that it reads (decoder.h): plain memory, no Python inside."""

import ctypes
import os
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, Structure, c_float, c_int64, c_void_p, sizeof
from dataclasses import dataclass
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

VERSION = 2  # of the records below and of how weights lie; decoder.h has the same number
SWITCH = "RECALL_DECODER"  # "torch" leaves the compiled pass out
MATRICES = ("query", "memory", "out", "wide", "narrow")
NORMS = ("attention", "forward")


class Block(Structure):
    _fields_ = [
        *((name + part, c_void_p) for name in MATRICES for part in ("", "_bias")),
        *((name + part, c_void_p) for name in NORMS for part in ("_gain", "_shift")),
        *((name + "_epsilon", c_float) for name in NORMS),
    ]


class Decoder(Structure):
    _fields_ = [
        *((name, c_int64) for name in ("dim", "num_heads", "num_blocks", "num_items", "max_length", "num_segments")),
        *((name, c_void_p) for name in ("items", "positions", "users", "segments", "gain", "shift")),
        ("blocks", POINTER(Block)),
        ("epsilon", c_float),
        ("recency", c_float),
        ("past_weight", c_float),
    ]


class Plan(Structure):
    _fields_ = [
        *((name, c_int64) for name in ("num_inside", "num_tail", "num_vectors", "is_soft")),
        ("temperature", c_float),
    ]


@dataclass(frozen=True)
class Library:
    """The one function of the library. A call gives the interpreter's lock away."""

    # decoder, plan, count, rows, offsets, users, vectors, generated: addresses, but for the count
    encode: Callable[[int, int, int, int, int, int, int, int], int]


class UnavailableError(Exception):
    """The library cannot be used here; the text says why, as a label."""


@cache
def open_library() -> Library:
    """The library, opened once.

    Raises UnavailableError where it is switched off, was not built, was built from other sources, or cannot run here;
    ValueError for a switch that says neither.
    """
    switch = os.environ.get(SWITCH, "")
    if switch not in ("", "torch"):
        raise ValueError(f"{SWITCH} is {switch!r}; it takes torch, or nothing")
    if switch == "torch":
        raise UnavailableError("switched_off")
    paths = [Path(__file__).with_name("_decoder" + suffix) for suffix in EXTENSION_SUFFIXES]
    path = next((path for path in paths if path.exists()), None)
    if path is None:
        raise UnavailableError("not_built")
    try:
        opened = ctypes.CDLL(str(path))
        layout = CFUNCTYPE(c_int64)(("decoder_layout", opened))
        encode = CFUNCTYPE(c_int64, c_void_p, c_void_p, c_int64, *[c_void_p] * 5)(("decoder_encode", opened))
    except (OSError, AttributeError) as error:
        raise UnavailableError("not_loaded") from error
    sizes = layout()
    if not sizes:
        raise UnavailableError("processor")
    # one that was built from other sources would read other memory
    if sizes != sizeof(Decoder) + 1000 * sizeof(Block) + 1_000_000 * sizeof(Plan) + 1_000_000_000 * VERSION:
        raise UnavailableError("version")
    return Library(encode)
