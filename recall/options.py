"""Options of commands: a record as one parameter, values out of text, and no option that is silently dropped."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from inspect import Parameter, Signature, getdoc
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import typer
from typer.core import TyperCommand

from model.ids import as_integer

Record = TypeVar("Record")


class StrictCommand(TyperCommand):
    """Refuses an option that is given twice and takes one value, of which the last alone would be read."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _, _, order = self.make_parser(ctx).parse_args(list(args))
        single = [param for param in order if param.param_type_name == "option" and not getattr(param, "multiple", 0)]
        if twice := next((param for param in single if single.count(param) > 1), None):
            ctx.fail(f"{twice.opts[0]} is given more than once; it takes one value")
        return super().parse_args(ctx, args)


class DeclaredCommand:
    """A function of **given, with the name, the help and the parameters that typer shall see."""

    def __init__(self, source: Callable[..., None], run: Callable[..., None], parameters: Sequence[Parameter]) -> None:
        self._run = run
        self.__name__ = source.__name__
        self.__doc__ = getdoc(source)
        # typer asks both: the signature for names and defaults, the annotations for types
        self.__signature__ = Signature(list(parameters))
        self.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}

    def __call__(self, **given: Any) -> None:
        self._run(**given)


def takes(record: type[Record]) -> Callable[[Callable[[Record], None]], DeclaredCommand]:
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

    def decorate(command: Callable[[Record], None]) -> DeclaredCommand:
        def run(**given: Any) -> None:
            command(record(**given))

        return DeclaredCommand(command, run, parameters)

    return decorate


def declares(parameters: Sequence[Parameter]) -> Callable[[Callable[..., None]], DeclaredCommand]:
    """Makes a typer command of a function of **given."""
    return lambda run: DeclaredCommand(run, run, parameters)


def read_ids(text: str | None, as_text: bool = False) -> list[int | str] | None:
    """'3,17,x' -> [3, 17, 'x']; an id that holds a comma stands in quotes."""
    if text is None:
        return None
    try:
        parts = next(csv.reader([text], skipinitialspace=True), [])
    except csv.Error:
        raise ValueError(f"{text!r} is no list of ids with commas between them") from None
    return [read_id(part.strip(), as_text) for part in parts if part.strip()]


def read_id(text: str, as_text: bool = False) -> int | str:
    """The integer that a text is in plain form, else the text: '7' -> 7, '007' -> '007'; `as_text` keeps '7' too."""
    integer = None if as_text else as_integer(text)
    return text if integer is None else integer


def read_pairs(pairs: list[str], form: str) -> dict[str, str]:
    """['recgpt=a', 'comirec=b'] -> {'recgpt': 'a', 'comirec': 'b'}; `form` tells a user how a pair is written."""
    bad = [pair for pair in pairs if "=" not in pair]
    if bad:
        raise typer.BadParameter(f"{bad[0]!r} is not {form}")
    return dict(pair.split("=", 1) for pair in pairs)


def read_words(text: str | None) -> list[str] | None:
    """'a,b' -> ['a', 'b']; nothing is None."""
    words = [word.strip() for word in (text or "").split(",") if word.strip()]
    return words or None


def read_number(text: str, name: str) -> float:
    """Raises ValueError with the name of what is no number."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{name} is {text!r}, which is no number") from None


def check_writable(path: Path | None) -> None:
    """Raises ValueError where no file could be written there: said before the work, and not after it."""
    if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
        raise ValueError(f"{path} is a folder" if path.is_dir() else f"there is no folder for the file {path}")
