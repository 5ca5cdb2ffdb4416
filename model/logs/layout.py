"""The layout of a text log: separator, quotes, header or none; told by the options, else guessed from its first lines.

Every guess is a note that the command prints. A guess that could be wrong without being noticed is not made: three
columns of numbers may end in a time or in a rating, so such a file must be named with `--header`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from model.logs.columns import SKIPPED, ColumnPlan, LogShape, is_header, name_columns, plan_columns
from model.logs.events import DataError, shown
from model.logs.times import looks_like_time

# By preference, where several would do: a comma stands in many a text field, a space in more.
SEPARATORS = {"tab": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "two colons": "::", "space": " "}
# MovieLens u.data and ratings.dat, Amazon's ratings; pairs in order as SASRec has them
RATINGS = ("user", "item", SKIPPED, "time")
# Files that the field publishes without a header, by the beginning of their names: columns that only the name tells
PUBLISHED = {
    "userbehavior": ("user", "item", SKIPPED, SKIPPED, "time"),  # Taobao
    "yoochoose-clicks": ("user", "time", "item", SKIPPED),  # RecSys Challenge 2015
    "dataset_tsmc2014": ("user", "item", *[SKIPPED] * 5, "time"),  # Foursquare check-ins
    "loc-gowalla": ("user", "time", SKIPPED, SKIPPED, "item"),
    "loc-brightkite": ("user", "time", SKIPPED, SKIPPED, "item"),
    "userid-timestamp-artid": ("user", "time", *[SKIPPED] * 3, "item"),  # Last.fm listening, by name of track
}
ATOMIC_TYPE = re.compile(r":(token|float)(_seq)?\s*$")  # RecBole's headers: user_id:token
NUMBER = re.compile(r"\s*-?\d+(\.\d+)?\s*")


@dataclass(frozen=True, slots=True)
class TextLayout:
    """How lines become fields."""

    separator: str
    is_quoted: bool  # fields may stand in quotes; else a quote is a character as any other
    num_fields: int
    has_header: bool
    plan: ColumnPlan
    notes: tuple[str, ...] = ()

    @property
    def in_order(self) -> bool:
        return "time" not in self.plan.names


def find_layout(lines: Sequence[str], source: Path, shape: LogShape) -> TextLayout:
    """The layout of a log, from its first lines.

    Raises DataError when the columns of user, item and time are neither named nor known.
    """
    separators = [shape.separator] if shape.separator else [*SEPARATORS.values()]
    if not shape.header:
        for separator in separators:
            header = [ATOMIC_TYPE.sub("", name) for name in split_line(lines[0], separator)]
            if is_header(header, shape):
                return _with_header(header, lines[0], separator, source, shape)
    separator = _separator(lines, separators)
    fields = [split_line(line, separator) for line in lines]
    names = shape.header or _published_names(fields, source, shape) or _known_names(fields, shape)
    if not names:
        if not any(map(_is_value, fields[0])):
            plan_columns(fields[0], source, shape)
        raise DataError(
            f"{source} has no header that names user, item and time; its first line is {shown(lines[0])}: "
            "name its columns with --header user,item,time (- leaves one out)"
        )
    return _without_header(fields[0], names, separator, source, shape)


def split_line(line: str, separator: str) -> list[str]:
    """The fields of one line, quotes taken off."""
    if separator == " ":
        return line.split()
    if '"' not in line or separator == "::":
        return line.split(separator)
    pattern = f'{re.escape(separator)}((?:"(?:[^"]|"")*"|[^"{re.escape(separator)}]*))'
    parts = re.findall(pattern, separator + line)
    return [part[1:-1].replace('""', '"') if part[:1] == part[-1:] == '"' and part != '"' else part for part in parts]


def _with_header(header: list[str], line: str, separator: str, source: Path, shape: LogShape) -> TextLayout:
    plan = plan_columns(header, source, shape)
    # Excel and R quote in tab-separated files and quote the header too; elsewhere a quote there is a character.
    is_quoted = separator not in ("\t", "::", " ") or (separator == "\t" and line.startswith('"'))
    notes = [plan.note] if separator == "," else [f"separator: {_name(separator)}", plan.note]
    return TextLayout(separator, is_quoted, len(header), True, plan, (*notes, *_order_note(plan)))


def _without_header(
    first: list[str], names: Sequence[str], separator: str, source: Path, shape: LogShape
) -> TextLayout:
    if len(names) != len(first):
        raise DataError(
            f"{source} has {len(first)} columns, and --header names {len(names)}; - leaves a column out "
            f"(separator: {_name(separator)}, first line: {shown(separator.join(first))})"
        )
    plan = name_columns(names)
    missing = [name for name in shape.required if shape.header and name not in names]
    if missing:
        raise DataError(
            f"--header names no {' and no '.join(missing)}; it takes user, item and time, or --in-order instead of time"
        )
    guessed = "" if shape.header else " (guessed: name them with --header if this is wrong)"
    notes = (f"no header; separator: {_name(separator)}", plan.note + guessed, *_order_note(plan))
    return TextLayout(separator, separator not in ("\t", "::", " "), len(first), False, plan, notes)


def _order_note(plan: ColumnPlan) -> tuple[str, ...]:
    return () if "time" in plan.names else ("no times: the lines are taken in their order",)


def _separator(lines: Sequence[str], separators: Sequence[str]) -> str:
    """The one that divides all lines, or nearly all, into the same number of fields, two or more."""
    for separator in separators:
        counts = [len(split_line(line, separator)) for line in lines]
        if counts[0] >= 2 and counts.count(counts[0]) >= 0.9 * len(counts):
            return separator
    return separators[0] if len(separators) == 1 else ","


def _known_names(fields: Sequence[Sequence[str]], shape: LogShape) -> tuple[str, ...]:
    """The names of the columns of a file without a header, where they can only be these; empty where not."""
    usual = [row for row in fields if len(row) == len(fields[0])]
    columns = [*zip(*usual, strict=True)]
    if shape.columns or not any(map(_is_value, fields[0])):
        return ()
    if len(columns) == 2:
        return ("user", "item")
    if len(columns) == 3 and all(map(looks_like_time, columns[2])):
        return ("user", "item", "time")
    if len(columns) == 4 and all(map(looks_like_time, columns[3])) and not any(map(looks_like_time, columns[2])):
        return RATINGS
    return ()


def _published_names(fields: Sequence[Sequence[str]], source: Path, shape: LogShape) -> tuple[str, ...]:
    """The names of the columns of a published file, where its name is known and its lines are as they should be."""
    names = next((names for start, names in PUBLISHED.items() if source.name.lower().startswith(start)), ())
    usual = [row for row in fields if len(row) == len(names)]
    if not names or len(usual) < 0.9 * len(fields) or shape.columns or shape.in_order:
        return ()
    return names if all(looks_like_time(row[names.index("time")]) for row in usual) else ()


def _is_value(text: str) -> bool:
    """Says whether a field is no name of a column."""
    return bool(NUMBER.fullmatch(text)) or looks_like_time(text)


def _name(separator: str) -> str:
    return next((name for name, text in SEPARATORS.items() if text == separator), shown(separator))
