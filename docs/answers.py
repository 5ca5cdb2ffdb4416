"""Draws the answers of both arms to the README's request as docs/figures/answers.svg, while `make demo` serves.

python -m docs.answers [--url http://127.0.0.1:8080]
"""

import argparse
import io
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.table import Table
from rich.terminal_theme import DEFAULT_TERMINAL_THEME

from recall.serving import ask

PICTURE = Path(__file__).parent / "figures" / "answers.svg"
REQUEST: dict[str, Any] = {"user_id": 7, "history": [5, 9, 77], "top_n": 6, "explain": True}
ARMS = {"recgpt": "two steps", "comirec": "several interests"}
WIDTH = 58  # characters: legible where a page shows 600 pixels


def lists(answer: dict[str, Any]) -> Table:
    """One arm's list."""
    arm = answer["arm"]
    table = Table(
        title=f"[bold]{arm}[/bold]: {ARMS[arm]}", box=box.SIMPLE_HEAD, title_justify="left", title_style="not italic"
    )
    for name in ("item", "score", "source"):
        table.add_column(name, justify="left" if name == "source" else "right", no_wrap=True)
    columns = zip(answer["items"], answer["scores"], answer["sources"], strict=True)
    for item, score, source in columns:
        table.add_row(str(item), f"{score:.2f}", source)
    return table


def draw(answers: list[dict[str, Any]]) -> str:
    """SVG of two lists side by side, in the type of a terminal."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), highlight=False)
    beside = Table.grid(padding=(0, 2))
    beside.add_row(*map(lists, answers))
    watched = ", ".join(map(str, REQUEST["history"]))
    console.print(Group(f" User {REQUEST['user_id']} just watched {watched}. The candidates of each arm:", "", beside))
    return console.export_svg(title="POST /recall/{arm}", theme=DEFAULT_TERMINAL_THEME, unique_id="answers")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:8080", help="Of a service with both arms.")
    url = parser.parse_args().url
    PICTURE.write_text(draw([ask(url, REQUEST, arm) for arm in ARMS]), encoding="utf-8")


if __name__ == "__main__":
    main()
