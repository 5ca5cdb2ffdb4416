"""recall serve and query: the service, whose options are its settings, and one request to it."""

import inspect
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args

import httpx
import typer
from rich.table import Table

from recall.options import declares, read_id, read_ids, read_pairs
from recall.terminal import err, out
from service.errors import ConfigurationError
from service.settings import Settings, load_settings

Option = typer.Option
STOP_HINT = "stop it with Ctrl-C"


def _option(name: str) -> inspect.Parameter:
    """An option, and its environment variable, from a field of Settings."""
    field = Settings.model_fields[name]
    # the first of these types that the field may have; paths and unions of text are words
    kinds = [kind for kind in (int, float, Path) if kind is field.annotation or kind in get_args(field.annotation)]
    default = field.get_default() if field.get_default() is not None else "unset"
    option = Option(
        f"--{name.replace('_', '-')}",
        help=field.description,
        envvar=f"RECALL_{name.upper()}",
        show_default=str(default),
    )
    kind = Annotated[kinds[0] if kinds else str, option]  # type: ignore[valid-type]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)


def _parameters() -> list[inspect.Parameter]:
    arm = Option("--arm", help="NAME=BUNDLE; may be repeated, e.g. --arm recgpt=bundles/recgpt.", envvar="RECALL_ARM")
    first = inspect.Parameter("arm", inspect.Parameter.KEYWORD_ONLY, default=[], annotation=Annotated[list[str], arm])
    return [first, *(_option(name) for name in Settings.model_fields if name != "arms")]


@declares(_parameters())
def serve(**given: Any) -> None:
    """Serve bundles over HTTP. Without a Redis URL an embedded redis-server starts; with Redis gone it serves on."""
    given["arms"] = {name: Path(path) for name, path in read_pairs(given.pop("arm"), "NAME=BUNDLE").items()} or None
    run_server(load_settings(**given), announce)


def run_server(settings: Settings, on_start: Callable[[str], None]) -> None:
    """Serves until it is told to stop; `on_start` gets the address once requests are answered.

    Raises ValueError when the port is taken, ConfigurationError when an arm cannot be served.
    """
    from service.engine.loading import wait_for_bundles
    from service.http.app import create_app
    from service.http.server import Server
    from service.telemetry.logging import configure_logging

    configure_logging(settings.log_level)
    # before the port is open: nobody's request should wait for a bundle that is still being trained
    wait_for_bundles(list(settings.arms.values()), settings.bundle_wait_s)
    if settings.http_workers:
        run_workers(settings, on_start)
        return
    with listen(settings.host, settings.port) as listener:
        url = f"http://{settings.host}:{listener.getsockname()[1]}"
        Server(create_app(settings), lambda: on_start(url)).run([listener])


def run_workers(settings: Settings, on_start: Callable[[str], None]) -> None:
    """Several HTTP processes before the engines of this one."""
    from service.http.workers import run_engine

    if settings.uses_memory:
        raise ConfigurationError("--http-workers share histories by Redis: --redis-url memory is for one process")
    # bound and not listening: known to be free, and nobody's request ends there
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            held.bind((settings.host, settings.port))
        except OSError as error:
            raise ValueError(taken(settings.host, settings.port, error)) from error
        port = held.getsockname()[1]
        run_engine(settings, port, lambda: on_start(f"http://{settings.host}:{port}"))


def taken(host: str, port: int, error: OSError) -> str:
    return f"cannot listen on {host}:{port} ({error.strerror}); choose another --port"


def listen(host: str, port: int) -> socket.socket:
    try:
        return socket.create_server((host, port), backlog=2048)
    except OSError as error:
        raise ValueError(taken(host, port, error)) from error


def announce(url: str) -> None:
    err.print(f"recall serves at {url}  (docs at {url}/docs, process {os.getpid()}; {STOP_HINT})")


def query(
    url: Annotated[str, Option(help="Address of a running service.")] = "http://127.0.0.1:8080",
    user: Annotated[
        str | None, Option(help="User id; without --history the service takes the history that it keeps of the user.")
    ] = None,
    history: Annotated[
        str | None, Option(help="Item ids, oldest first, with commas: 101,2044,77; quotes around an id with a comma.")
    ] = None,
    top_n: Annotated[int, Option(help="Length of the list.")] = 10,
    arm: Annotated[str | None, Option(help="Arm that answers. Default: the experiment decides.")] = None,
    exclude: Annotated[str | None, Option(help="Item ids that must not appear, with commas.")] = None,
    string: Annotated[
        bool, Option("--string", help='Send every id as text, for a catalogue whose ids are text: 7 as "7".')
    ] = False,
) -> None:
    """Ask a running service for one list.

    It is printed as a table, with the source of each item and the time that each stage took.
    """
    body: dict[str, Any] = {"top_n": top_n, "explain": True}
    if user is not None:
        body["user_id"] = read_id(user, string)
    if history is not None:
        body["history"] = read_ids(history, string)
    if exclude is not None:
        body["exclude"] = read_ids(exclude, string)
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
