"""The terminal: consoles, progress bars, the machine's last line, and how this command is called here."""

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

# No markup: what is printed may come from a file, and "[/x]" is an id there.
out = Console(highlight=False, soft_wrap=True, markup=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, markup=False)


def last_line(result: dict[str, Any]) -> None:
    """Prints JSON for machines, always the last line of standard output."""
    # not through rich: it would wrap and colour what a program reads
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()


def progress_bar() -> Progress:
    """A progress bar on standard error output, so that pipes stay clean."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=err)


def command_here(python: Path | None = None) -> str:
    """The words that call this command from the current folder: recall, .venv/bin/recall, or python -m recall."""
    python = python or Path(sys.executable)
    script, on_path = python.with_name("recall"), shutil.which("recall")
    if not script.exists():
        return f"{_from_here(python)} -m recall"
    return "recall" if on_path and os.path.samefile(on_path, script) else _from_here(script)


def _from_here(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
