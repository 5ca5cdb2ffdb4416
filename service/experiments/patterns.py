"""Regular expressions of conditions: those whose time does not grow out of hand with the text that a request brings.

Python's engine goes back over what it has matched. A repeat inside a repeat ("(a+)+") then takes time exponential in the
text, and each further repeat without a small bound another factor of its length. The text is a caller's.
"""

import re
from collections.abc import Iterator, Mapping
from re import _constants as codes  # type: ignore[attr-defined]
from re import _parser as parser  # type: ignore[attr-defined]
from typing import Any

REGEX = "$regex"
FEW = 64  # times, up to which a repeat is bounded
MAX_UNBOUNDED = 2  # such repeats, of texts of 256 characters: some 65,000 steps


def slow_pattern(condition: Mapping[str, Any]) -> str | None:
    """Returns a pattern of a condition, however deep, that may take too long or is none; None where there is none."""
    return next((pattern for pattern in _patterns(condition) if _is_slow(pattern)), None)


def _patterns(value: object) -> Iterator[str]:
    if isinstance(value, list):
        for part in value:
            yield from _patterns(part)
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from [part] if key == REGEX and isinstance(part, str) else _patterns(part)


def _is_slow(pattern: str) -> bool:
    try:
        repeats = [*_repeats(parser.parse(pattern), inside=False)]
    except (re.error, RecursionError, OverflowError):
        return True
    return any(is_nested for _, is_nested in repeats) or sum(most > FEW for most, _ in repeats) > MAX_UNBOUNDED


def _repeats(part: Any, inside: bool) -> Iterator[tuple[int, bool]]:
    """(times at most, stands in another repeat) of each repeat; a choice within a repeat counts as one."""
    for code, given in part:
        if code in (codes.MAX_REPEAT, codes.MIN_REPEAT, codes.POSSESSIVE_REPEAT):
            _, most, repeated = given
            if most > 1:
                yield int(most), inside
            yield from _repeats(repeated, inside or most > 1)
        elif code is codes.BRANCH:
            if inside:
                yield 1, True
            for choice in given[1]:
                yield from _repeats(choice, inside)
        else:
            # groups and what looks ahead or back hold a pattern as their last part
            last = given[-1] if isinstance(given, tuple) and given else given
            if isinstance(last, parser.SubPattern):
                yield from _repeats(last, inside)
