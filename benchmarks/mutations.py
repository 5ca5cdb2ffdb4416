"""Mutations of bytes and of JSON: good inputs made bad in one or a few places."""

import copy
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import orjson

# whole words that have broken parsers before
WORDS = (
    *(b"null", b"true", b"-1", b"0", b"1e400", b"-1e400", b"NaN", b"Infinity", b"9223372036854775808", b"1" * 400),
    *(b'"', b"\\", b"{", b"}", b"[", b"]", b":", b",", b"\r\n", b"\n", b"\r", b"\0", b"\xff", b"\xed\xa0\x80"),
    *(b'"\\ud800"', b"[" * 300, b'{"a":' * 100, b"%00", b"../", b"[/x]", b"%s%n", b"; DROP", b"\xef\xbb\xbf"),
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 7, 2**31, 2**53, 2**63 - 1, -(2**63), 1e308, 0.1, -0.0),
    *("", "x", "7", "7.0", "nan", "\0", "\r\nx: y", "\u202e", "é", "a" * 300, "[/b]", "../..", "-"),
    *([], {}, [[]], [None], [{}], {"": None}, [1, "1"], {"a": {"b": {"c": []}}}),
)


def spoil(data: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """The bytes with one to four changes; `others` lend parts."""
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        place = rng.randrange(len(out) + 1)
        kind = rng.randrange(8)
        if kind == 0 and out:
            out[place % len(out)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            out[place:place] = rng.choice(WORDS)
        elif kind == 2:
            del out[place : place + rng.randrange(1, 20)]
        elif kind == 3:
            out[place : place + rng.randrange(8)] = rng.choice(WORDS)
        elif kind == 4:
            out[place:place] = out[place : place + rng.randrange(40)] * rng.randrange(1, 4)
        elif kind == 5:
            other = rng.choice(others)
            start = rng.randrange(len(other) + 1)
            out[place : place + rng.randrange(20)] = other[start : start + rng.randrange(60)]
        elif kind == 6:
            del out[place:]
        elif out:
            out[place % len(out)] = rng.randrange(256)
    return bytes(out)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key or index) in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in [*items]:
        yield value, key
        yield from places(inner)


def spoil_json(value: Any, rng: random.Random) -> Any:
    """A copy with one or two of its parts replaced, renamed, doubled or gone."""
    value = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 2))):
        if not (known := [*places(value)]):
            return rng.choice(VALUES)
        container, key = rng.choice(known)
        kind = rng.randrange(4)
        if kind == 0:
            del container[key]
        elif kind == 1 and isinstance(container, dict):
            container[rng.choice(("", "x", "é", f"{key} ", f"{key}"[:-1]))] = container.pop(key)
        elif kind == 2 and isinstance(container, list):
            container += [container[key]] * rng.choice((1, 2, 300))
        else:
            container[key] = copy.deepcopy(rng.choice(VALUES))
    return value


def json_inputs(
    seeds: Sequence[Any], rng: random.Random, seal: Callable[[Any], bytes] = orjson.dumps
) -> Iterator[bytes]:
    """Endless inputs of a reader of JSON: half of them spoilt as values, and sealed; the others as bytes."""
    whole = [seal(seed) for seed in seeds]
    while True:
        if rng.random() < 0.5:
            try:
                yield seal(spoil_json(rng.choice(seeds), rng))
            except (TypeError, ValueError, AttributeError):
                # a value that the sealer itself cannot write is no input
                continue
        else:
            yield spoil(rng.choice(whole), whole, rng)


def byte_inputs(seeds: Sequence[bytes], rng: random.Random) -> Iterator[bytes]:
    """Endless inputs made of these."""
    while True:
        yield spoil(rng.choice(seeds), seeds, rng)
