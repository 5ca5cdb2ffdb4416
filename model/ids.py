"""One rule for external ids, from file to wire: type, length and characters.

Readers of logs hold it while they read, request bodies by their schema: what `recall prepare` accepts can be asked for.
7 and "7" are one id, whichever of them a catalogue holds: numbers of JavaScript lose digits above 2^53, so such clients
send and get strings.
"""

import re
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIN_INTEGER, MAX_INTEGER = -(2**63), 2**63 - 1
MAX_CHARACTERS = 128  # of a string id; a history of 1,000 of them must fit into a request
CONTROL = r"[\x00-\x1f\x7f]"  # characters that no id holds
PATTERN = r"^[^\x00-\x1f\x7f]+$"
RULE = f"an id is a 64-bit integer or a string of 1 to {MAX_CHARACTERS} characters, none of them a control character"
# As text, an id of this form is the integer: "07", "+7" and "-0" are not.
_INTEGER = re.compile(r"-?[1-9][0-9]{0,18}|0")


def as_integer(text: str) -> int | None:
    """The 64-bit integer that a text is in plain form; None when it is another text."""
    if not _INTEGER.fullmatch(text):
        return None
    value = int(text)
    return value if MIN_INTEGER <= value <= MAX_INTEGER else None


def other_form(external: int | str) -> int | str | None:
    """The same id in the other type: "7" of 7 and 7 of "7"; None of a text that is no plain integer, such as "07"."""
    return as_integer(external) if isinstance(external, str) else str(external)


MARK_BYTES = 3
_STEPS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))  # of SplitMix64, which ends with a shift by 31


def marks_of(ids: Sequence[int | str] | NDArray[Any]) -> NDArray[np.uint32]:
    """(K,) a number of MARK_BYTES bytes for each id, spread evenly: the same for 7 and "7", in every process.

    They are stored, so that no version may give others. Of a million ids one in seventeen shares its mark with another:
    whoever uses marks must bear that.
    """
    if isinstance(ids, np.ndarray) and ids.dtype.kind == "i":
        state = ids.astype(np.uint64)
    else:
        # 64 bits, as a two's complement where an integer is negative
        state = np.array([_number(external) & 2**64 - 1 for external in ids], dtype=np.uint64)
    with np.errstate(over="ignore"):
        state = state + np.uint64(0x9E3779B97F4A7C15)
        for shift, factor in _STEPS:
            state = (state ^ (state >> np.uint64(shift))) * np.uint64(factor)
    state ^= state >> np.uint64(31)
    return (state >> np.uint64(64 - 8 * MARK_BYTES)).astype(np.uint32)


def _number(external: int | str) -> int:
    """The integer that an id is, else one of its text."""
    integer = as_integer(external) if isinstance(external, str) else external
    if integer is not None:
        return integer
    # apart from the integers of 32 bits, which most integer ids are
    return zlib.crc32(external.encode("utf-8", "surrogatepass")) + (1 << 48)  # type: ignore[union-attr]  # a text here
