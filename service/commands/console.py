"""What all commands share: consoles, progress bars, the machine's last line, ids from text."""

import json
import sys
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


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
