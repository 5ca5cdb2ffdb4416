"""recall serve, query and reload: the service, whose options are its settings, and requests to a running one."""

import errno
import inspect
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from rich.table import Table

from recall.calling import SYSTEM, ApiKeyOption, CaOption, CertOption, Trust, bearing, call
from recall.options import declares, read_id, read_ids, read_pairs, takes
from recall.terminal import err, last_line, out
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
    from service.access.ring import open_keys
    from service.access.tls import open_certificate
    from service.telemetry.logging import configure_logging

    configure_logging(settings.log_level)
    # before the bundles, which take seconds: a mistake in the keys or the certificate is told at once
    open_keys(settings)
    is_tls = open_certificate(settings) is not None
    if settings.http_workers:
        run_workers(settings, on_start, is_tls)
        return
    from service.engine.metadata import wait_for_bundles
    from service.engine_process import open_engines
    from service.http.app import create_app
    from service.http.server import Server
    from service.processes.addresses import url_of

    # before the port is open: nobody's request should wait for a bundle that is still being trained
    wait_for_bundles(list(settings.arms.values()), settings.bundle_wait_s)
    with open_port(settings.host, settings.port) as listener:
        url = url_of(settings.host, listener.getsockname()[1], is_tls)
        Server(create_app(settings, open_engines), lambda: on_start(url), settings.drain_s).run([listener])


def run_workers(settings: Settings, on_start: Callable[[str], None], is_tls: bool) -> None:
    """Several HTTP processes before an engine process, supervised by this one."""
    from service.processes.addresses import hold, url_of
    from service.processes.supervisor import run_supervised

    if settings.keeps_events_in_memory:
        raise ConfigurationError("--http-workers share histories by Redis: --redis-url memory is for one process")
    try:
        held = hold(settings.host, settings.port)
    except OSError as error:
        raise ValueError(cannot_listen(settings.host, settings.port, error)) from error
    with held:
        port = held.getsockname()[1]
        run_supervised(settings, port, lambda: on_start(url_of(settings.host, port, is_tls)))


def open_port(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ValueError with what to do."""
    from service.processes.addresses import listen

    try:
        return listen(host, port)
    except OSError as error:
        raise ValueError(cannot_listen(host, port, error)) from error


def cannot_listen(host: str, port: int, error: OSError) -> str:
    option = "--port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "--host"
    return f"cannot listen on {host}:{port} ({error.strerror}); choose another {option}"


def announce(url: str) -> None:
    err.print(f"recall serves at {url}  (docs at {url}/docs, process {os.getpid()}; {STOP_HINT})")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryCommand:
    """The options of `recall query`."""

    url: Annotated[str, Option(help="Address of a running service.")] = "http://127.0.0.1:8080"
    user: Annotated[
        str | None, Option(help="User id; without --history the service reads the history that it keeps for the user.")
    ] = None
    history: Annotated[
        str | None, Option(help="Item ids, oldest first, with commas: 101,2044,77; quotes around an id with a comma.")
    ] = None
    top_n: Annotated[int, Option(help="Length of the list.")] = 10
    arm: Annotated[str | None, Option(help="Arm that answers. Default: the experiment decides.")] = None
    exclude: Annotated[str | None, Option(help="Item ids that must not appear, with commas.")] = None
    string: Annotated[
        bool, Option("--string", help='Send every id as text, for a catalogue whose ids are text: 7 as "7".')
    ] = False
    api_key: ApiKeyOption = None
    ca: CaOption = None
    cert: CertOption = None

    @property
    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = {"top_n": self.top_n, "explain": True}
        if self.user is not None:
            body["user_id"] = read_id(self.user, self.string)
        if self.history is not None:
            body["history"] = read_ids(self.history, self.string)
        if self.exclude is not None:
            body["exclude"] = read_ids(self.exclude, self.string)
        return body


@takes(QueryCommand)
def query(options: QueryCommand) -> None:
    """Ask a running service for one list.

    It is printed as a table, with the source of each item and the time that each stage took.
    """
    trust = Trust(options.ca, options.cert)
    show_answer(ask(options.url, options.body, options.arm, options.api_key, trust))


def ask(
    url: str, body: dict[str, Any], arm: str | None = None, api_key: str | None = None, trust: Trust = SYSTEM
) -> dict[str, Any]:
    """Asks once. Raises what `call` raises."""
    path = f"/recall/{arm}" if arm else "/recall"
    return call("POST", url + path, trust=trust, json=body, headers=bearing(api_key))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReloadCommand:
    """The options of `recall reload`."""

    arm: Annotated[str | None, typer.Argument(help="Arm that gets another bundle. Default: each, one by one.")] = None
    url: Annotated[str, Option(help="Address of a running service.")] = "http://127.0.0.1:8080"
    bundle: Annotated[
        str | None,
        Option(help="Name of a folder beside the arm's own. Default: the arm's own."),
    ] = None
    rollback: Annotated[
        bool,
        Option("--rollback", help="End the trial of a canary, or take the bundle that was served before this one."),
    ] = False
    canary: Annotated[
        float | None,
        Option(help="Share of the users whom the bundle answers first; a bad one is rolled back by itself."),
    ] = None
    canary_s: Annotated[float | None, Option(help="A canary within its bounds for so long is in force.")] = None
    promote: Annotated[bool, Option("--promote", help="The canary is in force now.")] = False
    admin_key: Annotated[
        str | None, Option(help="The --admin-key of the service; better in the variable.", envvar="RECALL_ADMIN_KEY")
    ] = None
    api_key: ApiKeyOption = None
    ca: CaOption = None
    cert: CertOption = None
    timeout_s: Annotated[float, Option(help="Longest wait for an arm; a large bundle takes a minute.")] = 600

    def __post_init__(self) -> None:
        if self.canary_s is not None and self.canary is None:
            raise typer.BadParameter("--canary-s is the time of a canary: give --canary SHARE too")

    @property
    def headers(self) -> dict[str, str]:
        return bearing(self.api_key) | ({"X-Admin-Key": self.admin_key} if self.admin_key else {})

    @property
    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = {"bundle": self.bundle, "rollback": self.rollback, "promote": self.promote}
        if self.canary is not None:
            seconds = {} if self.canary_s is None else {"seconds": self.canary_s}
            body["canary"] = {"share": self.canary} | seconds
        return body


@takes(ReloadCommand)
def reload(options: ReloadCommand) -> None:
    """Have a running service serve another bundle.

    No request is lost. The bundle is proven first, as at start; a refused one changes nothing. The last line is JSON:
    the state of each arm asked.
    """
    url, headers, trust, outcomes = options.url, options.headers, Trust(options.ca, options.cert), []
    for name in [options.arm] if options.arm else call("GET", f"{url}/arms", trust=trust, headers=headers)["arms"]:
        body = {"arm": name} | options.body
        outcome = call("POST", f"{url}/admin/reload", options.timeout_s, trust, json=body, headers=headers)
        said = (
            "serves"
            if outcome["changed"]
            else "goes on with"
            if options.canary or options.rollback
            else "served already"
        )
        beside = f", {outcome['canary']} is on trial" if outcome["canary"] else ""
        if outcome["overlap"] is not None:
            beside += f", overlap {outcome['overlap']:.1%} over {outcome['compared']} recorded histories"
        err.print(f"arm {name} {said} bundle {outcome['bundle']} ({outcome['seconds']:.1f} s){beside}", markup=False)
        outcomes.append(outcome)
    last_line({"reloaded": outcomes})


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
