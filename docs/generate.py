"""Writes the pages that follow from code, rows and imports; `--check` fails where one is out of date.

python -m docs.generate [--check]
"""

import argparse
import asyncio
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import typer
from click import Parameter
from prometheus_client.core import Metric
from typer.core import TyperGroup

from docs import online_ab, rooms
from recall.__main__ import make_app
from recall.bench import plots
from recall.reproduction import figures, provenance, report
from recall.reproduction.results import Results
from service import errors
from service.access.collector import KeyCollector
from service.access.keys import new_key
from service.access.ring import KeyRing
from service.access.tls import CertificateCollector, CertificateFacts
from service.admission.collector import AdmissionCollector
from service.admission.gate import Gate
from service.bootstrap import register
from service.canary.collector import CanaryCollector
from service.canary.watch import CanaryWatch
from service.engine.collector import EngineCollector
from service.engine.loading import load_arm
from service.engine_process import open_engines
from service.events.collector import EventCollector
from service.events.outbox import MemoryOutbox
from service.experiments.assignment import DEFAULT_FILE, Assigner
from service.experiments.collector import ExperimentsCollector
from service.experiments.live import LiveAssigner
from service.http.app import create_app
from service.http.auth import NEEDED
from service.pipeline import RecallPipeline
from service.reload.collector import ReloadCollector
from service.reload.reloader import Reloader
from service.settings import Settings
from service.stores.collectors import CacheCollector, RedisCollector
from service.stores.history import MemoryHistory
from service.stores.redis_client import RedisClient
from service.stores.vector_cache import MemoryVectorCache
from service.telemetry.metrics import Metrics
from service.telemetry.process import ProcessCollector

FOLDER = Path(__file__).parent
_, EXAMPLE_KEY = new_key("example", ["recall"])
ROWS = Results(FOLDER.parent / "benchmarks" / "results" / "quality.jsonl")


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def settings() -> str:
    rows = []
    for name, field in Settings.model_fields.items():
        default = field.get_default(call_default_factory=True)
        shown = "" if default in (None, {}) else str(default)
        rows.append([f"`RECALL_{name.upper()}`", f"`{shown}`" if shown else "unset", field.description or ""])
    return table(["variable", "default", "meaning"], rows)


def commands() -> str:
    group = typer.main.get_command(make_app())
    assert isinstance(group, TyperGroup)  # noqa: S101
    return "\n\n".join(describe("recall", group))


def describe(parent: str, group: TyperGroup) -> Iterator[str]:
    """Each command with its options, those of a group behind the group's name."""
    for name, part in sorted(group.commands.items()):
        if isinstance(part, TyperGroup):
            yield from describe(f"{parent} {name}", part)
            continue
        rows = [option_row(option) for option in part.params if option.name != "help"]
        yield f"### {parent} {name}\n\n{(part.help or '').strip()}\n\n{table(['option', 'default', 'meaning'], rows)}"


def option_row(option: Parameter) -> list[str]:
    """An option under all its names, with its default and its meaning."""
    names = "/".join([*option.opts, *option.secondary_opts])
    # `recall serve` has its defaults from the settings, and names them to the help alone
    named = getattr(option, "show_default", None)
    default = named if isinstance(named, str) else option.default
    if option.secondary_opts:  # a switch with an opposite: the one of the two that holds
        default = (option.opts if default else option.secondary_opts)[0]
    values = default if isinstance(default, list | tuple) else [default]
    shown = " ".join(str(value) for value in values if value is not None and value is not False and value != "unset")
    meaning = getattr(option, "help", "") or ""
    return [f"`{names}`", "required" if option.required else f"`{shown}`" if shown else "", meaning]


def routes() -> str:
    document = create_app(Settings(), open_engines).openapi()
    rows = []
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            statuses = ", ".join(sorted(operation["responses"]))
            scope = " or ".join(NEEDED[path]) or "none"
            rows.append([f"`{method.upper()} {path}`", operation.get("description", ""), scope, statuses])
    return table(["route", "what", "scope of its API key", "statuses"], rows)


def metric_families() -> list[Metric]:
    """The metrics counted while answering, then those that the parts count themselves."""
    # no arms: names and meanings are the same with any
    counted, client = Metrics(), RedisClient("redis://127.0.0.1/0", "cache")
    reloader = Reloader({}, {}, lambda _, folder: load_arm("", folder, "cpu").release)
    reloads = ReloadCollector(reloader)
    experiments = LiveAssigner(lambda: Assigner.from_file(DEFAULT_FILE, ["recgpt", "comirec"]), None)
    parts = (CacheCollector(MemoryVectorCache()), EngineCollector({}), reloads, RedisCollector([client]))
    register(counted, *parts, EventCollector(MemoryOutbox()), ExperimentsCollector(experiments))
    register(counted, AdmissionCollector(Gate(1.0)), KeyCollector(KeyRing(lambda: EXAMPLE_KEY.line, "example")))
    register(counted, CanaryCollector(CanaryWatch(RecallPipeline({}, experiments, MemoryHistory()), reloader)))
    register(counted, CertificateCollector(CertificateFacts(datetime.now(UTC))))
    loop = asyncio.new_event_loop()
    register(counted, ProcessCollector("service", loop))
    families = list(counted.registry.collect())
    loop.close()
    return families


def metrics() -> str:
    rows = [[f"`{f.name}{'_total' * (f.type == 'counter')}`", f.type, f.documentation] for f in metric_families()]
    return table(["metric", "type", "meaning"], rows)


def failures() -> str:
    kinds: list[type[errors.RecallError]] = []
    left = [errors.RecallError]
    while left:
        kind = left.pop(0)
        left = kind.__subclasses__() + left
        kinds.append(kind)
    rows = [
        [f"`{k.code}`", str(k.status), "yes" if k.retryable else "no", (k.__doc__ or "").strip()] for k in kinds[1:]
    ]
    return table(["code", "status", "retryable", "when"], rows)


def render() -> str:
    parts = {
        "Settings of `recall serve`": settings(),
        "Routes": routes(),
        "Errors": failures(),
        "Metrics": metrics(),
        "Commands": commands(),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in parts.items())
    return (
        f"# Reference\n\nWritten by `make docs` from the code; `make check` fails when it is out of date.\n\n{body}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    for path, text in ((FOLDER / name, write()) for name, write in PAGES.items()):
        if not check:
            path.write_text(text, encoding="utf-8")
        elif path.read_text(encoding="utf-8") != text:
            sys.exit(f"{path.relative_to(FOLDER)} is out of date: run `make docs`")
    if not check:
        figures.draw(ROWS.rows(), FOLDER / report.FIGURES)
        plots.draw_kept(ROWS.path.parent, FOLDER / report.FIGURES)


def results() -> str:
    return report.render(ROWS.rows())


def results_provenance() -> str:
    return provenance.render(ROWS.rows())


def architecture() -> str:
    """The page as it is, with the table of rooms between its marks."""
    page = (FOLDER / "architecture.md").read_text(encoding="utf-8")
    before, rest = page.split(ROOMS, 1)
    return f"{before}{ROOMS}\n{rooms.table(rooms.read())}\n{ROOMS_END}{rest.split(ROOMS_END, 1)[1]}"


def picture() -> str:
    return rooms.picture(rooms.arrows(rooms.read()))


def decisions() -> str:
    """An index of the decisions: the title of each page."""
    paths = sorted((FOLDER / "decisions").glob("0*.md"))
    titles = [path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ") for path in paths]
    lines = [f"- [{title}]({path.name})" for title, path in zip(titles, paths, strict=True)]
    return "\n".join([DECISIONS, *lines, ""])


ROOMS, ROOMS_END = "<!-- rooms -->", "<!-- /rooms -->"
DECISIONS = """# Decisions

One page a decision: what was chosen, what else there was, what decided. Written by `make docs` from the titles.
"""

PAGES: dict[str, Callable[[], str]] = {
    "reference.md": render,
    "results.md": results,
    "results-provenance.md": results_provenance,
    "architecture.md": architecture,
    "decisions/README.md": decisions,
    "online-ab.md": online_ab.page,
    "figures/rooms.svg": picture,
}


if __name__ == "__main__":
    main()
