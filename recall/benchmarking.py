"""recall bench: the speed of a service, of its engine and of its indexes, measured on this machine."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from recall.calling import CaOption
from recall.options import StrictCommand, takes
from recall.terminal import err, last_line, out

if TYPE_CHECKING:
    from recall.bench.http import Curve
    from recall.bench.target import Target

Option = typer.Option
Output = Annotated[Path | None, Option(help="Folder for figures (PNG, HTML) and the JSON. Default: none are written.")]
bench = typer.Typer(
    no_args_is_help=True,
    help="Measure speed on this machine.\n\nA service, its engine, its indexes; the last line is JSON.",
    rich_markup_mode=None,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpCommand:
    """The options of `recall bench http`."""

    bundle: Annotated[
        Path | None, Option(help="Bundle to serve. Default: one with fresh weights for --items, two-step recall.")
    ] = None
    url: Annotated[
        str | None, Option(help="Address of a service that runs already and whose item ids are integers from 0.")
    ] = None
    ca: CaOption = None
    items: Annotated[int, Option(min=100, help="Size of the catalogue.")] = 12_101
    arm: Annotated[str, Option(help="Arm to ask.")] = "recgpt"
    history: Annotated[int, Option(min=1, help="Item ids in each request.")] = 50
    top_n: Annotated[int, Option(min=1, help="Length of the lists.")] = 100
    p99_ms: Annotated[
        float, Option(min=1, help="The 99th percentile of the latencies that the rate has to keep to, in ms.")
    ] = 30.0
    seconds: Annotated[float, Option(min=1, help="Length of a trial of the search; longer is steadier.")] = 4.0
    runs: Annotated[int, Option(min=1, help="Number of longer trials of the rate that is reported.")] = 3
    only: Annotated[str, Option(help="Curves to measure, of uncached, cached and batch, with commas.")] = (
        "uncached,cached,batch"
    )
    generators: Annotated[
        int, Option(min=1, help="Processes that send the load together; one sends some 10,000 requests/s.")
    ] = 1
    start_rate: Annotated[
        float, Option(min=1, help="Requests/s that the search begins with; near the answer it ends sooner.")
    ] = 400.0
    serve: Annotated[str, Option(help="Further options of `recall serve`, in one string.")] = ""
    output: Output = None


@bench.command("http", cls=StrictCommand)
@takes(HttpCommand)
def bench_http(options: HttpCommand) -> None:
    """Find the highest rate within a p99.

    For new histories, cached ones and batches of users. Generators are processes of their own and keep to their clock.
    """
    need_extra()
    from recall.bench.http import HttpBench
    from recall.bench.http import bench_http as run
    from recall.bench.plots import latency_against_rate, write

    asked = HttpBench(
        arm=options.arm,
        num_items=options.items,
        history=options.history,
        top_n=options.top_n,
        p99_ms=options.p99_ms,
        seconds=options.seconds,
        runs=options.runs,
        only=curves_of(options.only),
        generators=options.generators,
        start_rate=options.start_rate,
    )
    with under_load(options) as target:
        curves = []
        for curve in run(target, asked, say):
            curves.append(curve)
            show_curve(curve)
        report = machine_facts() | {
            "asked": asdict(asked),
            "start_s": round(target.start_s, 2),
            "memory_mb": round(target.memory_mb),
            **{curve.name: curve.result for curve in curves},
        }
    if options.output:
        figures = {"latency against rate": latency_against_rate([c for c in curves if c.trials], options.p99_ms)}
        err.print(f"figures in {write(options.output, figures, report)}", markup=False)
    last_line(report)


def curves_of(text: str) -> tuple[str, ...]:
    """Reads names of curves with commas between them; raises ValueError for an unknown one."""
    from recall.bench.http import CURVES

    names = tuple(name.strip() for name in text.split(","))
    if unknown := [name for name in names if name not in CURVES]:
        raise ValueError(f"--only knows {', '.join(CURVES)}, not {', '.join(unknown)}")
    return names


@contextmanager
def under_load(options: HttpCommand) -> Iterator["Target"]:
    """The service that is measured: the one at --url, or one that is started for it.

    Raises ValueError for options of TLS where it is started here.
    """
    from recall.bench.bundles import Sizes, make_bundle
    from recall.bench.target import Target, serving

    if not options.url and (options.ca or "--tls-" in options.serve):
        raise ValueError("to measure HTTPS start the service yourself, and name it by --url with --ca")
    if options.url:
        yield Target(options.url.rstrip("/"), ca=options.ca)
        return
    with tempfile.TemporaryDirectory() as folder:
        bundle = options.bundle or make_bundle(Path(folder), Sizes(num_items=options.items))
        with serving({options.arm: bundle}, *options.serve.split()) as target:
            yield target


def show_curve(curve: "Curve") -> None:
    """Prints the rate that was held, with the spread of its runs, the machine's own stall, and where the time went."""
    result: dict[str, Any] = curve.result
    if not result["runs"]:
        out.print(f"{curve.name}: no rate held", markup=False)
        return
    lowest, highest = result["spread"]["p99_ms"]
    out.print(
        f"{curve.name}: {result['users_s']:,.0f} users/s in {result['rate']:,.0f} requests/s, "
        f"p50 {result['p50_ms']:.1f}, p99 {result['p99_ms']:.1f} (of {result['runs']} runs {lowest:.1f} to "
        f"{highest:.1f}), p999 {result['p999_ms']:.1f} ms; idle timer late by {result['stall_p99_ms']:.1f} ms (p99); "
        f"binds: {result['binding']}; CPU us a user: {result['cpu_us']}",
        markup=False,
    )


@bench.command("engine", cls=StrictCommand)
def bench_engine(
    items: Annotated[int, Option(min=100, help="Size of the catalogue in the curves over history and batch.")] = 12_101,
    largest: Annotated[int, Option(min=10_000, help="Largest catalogue in the curve over catalogues.")] = 1_000_000,
    runs: Annotated[int, Option(min=1, help="Calls for each point; the median counts.")] = 5,
    output: Output = None,
) -> None:
    """Measure the engine without HTTP.

    Microseconds a user of encode, search and merge against catalogue, history and batch.
    """
    need_extra()
    from recall.bench import curves
    from recall.bench.bundles import Sizes
    from recall.bench.plots import cost_against, write

    sizes = Sizes(num_items=items)
    catalogues = [size for size in curves.CATALOGUES if size <= largest]
    points = {
        "num_items": list(curves.by_catalogue(sizes, catalogues, runs)),
        "history": list(curves.by_history(sizes, runs=runs)),
        "batch": list(curves.by_batch(sizes, runs=runs)),
    }
    for name, measured in points.items():
        table = Table(name, "index", "recall", "encode us", "search us", "merge us", "total us", "one product us")
        for p in measured:
            times = (p.encode_us, p.search_us, p.merge_us, p.total_us, p.product_us)
            table.add_row(str(getattr(p, name)), p.index, f"{p.recall:.3f}", *(f"{time:,.0f}" for time in times))
        out.print(table)
    report = machine_facts() | {name: [asdict(point) for point in rows] for name, rows in points.items()}
    if output:
        figures = {f"cost against {name}": cost_against(rows, name) for name, rows in points.items()}
        err.print(f"figures in {write(output, figures, report)}", markup=False)
    last_line(report)


@bench.command("index", cls=StrictCommand)
def bench_index(
    bundle: Annotated[
        Path | None, Option(help="Bundle whose items and queries are taken. Default: vectors in clusters.")
    ] = None,
    items: Annotated[int, Option(min=1000, help="Number of vectors in clusters, without a bundle.")] = 100_000,
    dim: Annotated[int, Option(min=16, help="Width of those vectors.")] = 64,
) -> None:
    """Measure every kind of index.

    Recall against exact search, latency, memory and time to build.
    """
    need_extra()
    from index.auto import sample_queries
    from model.encoder import pin_compute_threads
    from recall.bench.index import bench_index as run
    from recall.bench.index import clustered, of_bundle

    pin_compute_threads()
    vectors = clustered(items, dim) if bundle is None else None
    pair = (vectors, sample_queries(vectors, 256)) if vectors is not None else of_bundle(bundle or Path())
    table = Table("index", "effort", "recall@100", "us alone", "us in 64", "MiB", "built in s")
    rows = []
    for row in run(*pair):
        rows.append(asdict(row))
        err.print(f"{row.spec} {row.effort}: recall {row.recall}", markup=False)
        table.add_row(
            row.spec,
            row.effort,
            f"{row.recall:.4f}",
            f"{row.single_us:,.0f}",
            f"{row.batch_us:,.0f}",
            f"{row.megabytes:,.0f}",
            f"{row.build_s:.1f}",
        )
    out.print(table)
    last_line(machine_facts() | {"items": len(pair[0]), "dim": pair[0].shape[1], "rows": rows})


@bench.command("all", cls=StrictCommand)
def bench_all(output: Annotated[Path, Option(help="Folder for figures and JSON.")]) -> None:
    """Run http, engine and index in turn.

    Each with its defaults.
    """
    bench_http(output=output / "http")
    bench_engine(output=output / "engine")
    bench_index()


def say(text: str) -> None:
    err.print(text, markup=False)


def machine_facts() -> dict[str, Any]:
    """The machine, the versions and the date of a figure."""
    import datetime

    from model.native.loops import LOADED
    from recall.reproduction import facts

    return {
        "loops": LOADED.reason,
        "machine": facts.machine("cpu"),
        "versions": facts.versions(),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def need_extra() -> None:
    """Raises ValueError, with the way out, where the extra is not installed."""
    import importlib.util

    if missing := [name for name in ("psutil", "matplotlib", "httptools") if importlib.util.find_spec(name) is None]:
        raise ValueError(f"recall bench needs {' and '.join(missing)}: pip install 'recgpt-recall[bench]'")
