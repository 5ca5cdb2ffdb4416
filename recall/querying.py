"""recall query: one request to a running service, its answer as a table."""

from typing import Annotated, Any

import httpx
import typer
from rich.table import Table

from recall.options import read_id, read_ids
from recall.terminal import out

Option = typer.Option


def query(
    url: Annotated[str, Option(help="Address of a running service.")] = "http://127.0.0.1:8080",
    user: Annotated[
        str | None, Option(help="User id; without --history the service takes the history that it keeps of the user.")
    ] = None,
    history: Annotated[str | None, Option(help="Item ids, oldest first, with commas: 101,2044,77.")] = None,
    top_n: Annotated[int, Option(help="Length of the list.")] = 10,
    arm: Annotated[str | None, Option(help="Arm that answers. Default: the experiment decides.")] = None,
    exclude: Annotated[str | None, Option(help="Item ids that must not appear, with commas.")] = None,
) -> None:
    """Ask a running service for one list.

    It is printed as a table, with the source of each item and the time that each stage took.
    """
    body: dict[str, Any] = {"top_n": top_n, "explain": True}
    if user is not None:
        body["user_id"] = read_id(user)
    if history is not None:
        body["history"] = read_ids(history)
    if exclude is not None:
        body["exclude"] = read_ids(exclude)
    show_answer(ask(url, body, arm))


def ask(url: str, body: dict[str, Any], arm: str | None = None) -> dict[str, Any]:
    """Asks once.

    Raises ValueError with the service's own sentence when it refuses, or when nothing answers at `url`.
    """
    path = f"/recall/{arm}" if arm else "/recall"
    try:
        reply = httpx.post(url + path, json=body, timeout=10)
    except httpx.HTTPError as error:
        raise ValueError(
            f"nothing answers at {url} ({error}); start a service with `recall serve` or `recall demo`"
        ) from error
    answer: dict[str, Any] = reply.json()
    if reply.status_code != 200:
        raise ValueError(f"{reply.status_code} {answer.get('code')}: {answer.get('message')}")
    return answer


def show_answer(answer: dict[str, Any]) -> None:
    experiment = answer["experiment"]
    table = Table("rank", "item", "score", "source")
    for rank, (item, score, source) in enumerate(
        zip(answer["items"], answer["scores"], answer["sources"], strict=True), 1
    ):
        table.add_row(str(rank), str(item), f"{score:.3f}", source)
    out.print(f"arm {answer['arm']} ({experiment['reason']}), bundle {answer['bundle'][:12]}")
    out.print(table)
    out.print(
        f"generated: {answer['prompts'] or 'nothing'}; cache: {answer['cache']}; degraded: {answer['degraded'] or 'no'}"
    )
    out.print("  ".join(f"{name} {value:.2f} ms" for name, value in answer["timings_ms"].items()))
