"""What all commands share: options as one record, consoles, progress bars, the machine's last line, ids from text."""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from functools import wraps
from inspect import Parameter, Signature
from typing import Any, TypeVar, get_type_hints

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)
Record = TypeVar("Record")


def takes(record: type[Record]) -> Callable[[Callable[[Record], None]], Callable[..., None]]:
    """Makes a typer command of a function of one frozen dataclass; each field is an option.

    Fields are `Annotated[type, typer.Option(..)] = default`, those without a default are required; a default_factory
    is not read.
    """
    kinds = get_type_hints(record, include_extras=True)
    parameters = [
        Parameter(
            field.name,
            Parameter.KEYWORD_ONLY,
            default=Parameter.empty if field.default is MISSING else field.default,
            annotation=kinds[field.name],
        )
        for field in fields(record)  # type: ignore[arg-type]  # of a dataclass
    ]

    def decorate(command: Callable[[Record], None]) -> Callable[..., None]:
        @wraps(command)
        def run(**given: Any) -> None:
            command(record(**given))

        declare(run, parameters)
        return run

    return decorate


def declare(command: Callable[..., None], parameters: Sequence[Parameter]) -> None:
    """Gives a function of **given the parameters that typer shall see."""
    # typer asks both: the signature for names and defaults, the annotations for types
    command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}


def last_line(result: dict[str, Any]) -> None:
    """JSON for machines, always the last line of standard output."""
    # not through rich: it would wrap and colour what a program reads
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()


def progress_bar() -> Progress:
    """On standard error output, so that pipes stay clean."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=err)


def read_ids(text: str | None) -> list[int | str] | None:
    """'3,17,9' -> [3, 17, 9]; what is not a whole number stays a string."""
    if text is None:
        return None
    return [read_id(part.strip()) for part in text.split(",") if part.strip()]


def read_id(text: str) -> int | str:
    return int(text) if text.lstrip("-").isdecimal() else text


def read_pairs(pairs: list[str], what: str) -> dict[str, str]:
    """['recgpt=a', 'comirec=b'] -> {'recgpt': 'a', 'comirec': 'b'}."""
    bad = [pair for pair in pairs if "=" not in pair]
    if bad:
        raise typer.BadParameter(f"{bad[0]!r} is not {what}")
    return dict(pair.split("=", 1) for pair in pairs)


def read_words(text: str | None) -> list[str] | None:
    """'a,b' -> ['a', 'b']; nothing is None."""
    words = [word.strip() for word in (text or "").split(",") if word.strip()]
    return words or None
