"""Figures of a benchmark: PNG files and one HTML page that holds them and the JSON. Needs the extra `bench`."""

import base64
import html
import json
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recall.bench.curves import Point
from recall.bench.http import Curve
from recall.reproduction import drawing

if TYPE_CHECKING:
    from matplotlib.axes import Axes

STAGES = ("encode", "search", "merge")
OURS = "recgpt-recall"
EVERYBODY, MIN_USERS = "all", 100  # in place of a length of histories; fewer users than that are no point
FIRST = "kuairand_pure"  # whose figures have its name left out of theirs
DATA_SETS = {FIRST: "KuaiRand-Pure", "Beauty": "Amazon Beauty"}


def latency_against_rate(curves: Sequence[Curve], p99_ms: float) -> drawing.Canvas:
    """The p99 of every trial against the rate that was offered, and the p99 that was asked for."""
    canvas = drawing.canvas("p99 latency against the offered rate")
    [panel] = canvas.panels
    series = {}
    for curve in curves:
        trials = sorted(curve.trials, key=lambda trial: trial.load.rate)
        series[curve.name] = [(trial.load.rate * trial.load.users_a_request, trial.measured.p99_ms) for trial in trials]
    panel.axhline(p99_ms, color=drawing.FAINT, linewidth=0.8)
    panel.set(xlabel="users a second, offered (log)", ylabel="p99, ms (log)")
    drawing.draw_lines(panel, series, log="xy")
    return canvas


def cost_against(points: Sequence[Point], name: str) -> drawing.Canvas:
    """Stages stacked in greys, each named at its right end, and the bound dotted beside them."""
    canvas = drawing.canvas("Microseconds a user: encode, search and merge")
    [panel] = canvas.panels
    x = [float(getattr(point, name)) for point in points]
    stages = [[float(getattr(point, f"{stage}_us")) for point in points] for stage in STAGES]
    panel.stackplot(x, stages, colors=["0.55", "0.75", "0.9"], edgecolor="0.2", linewidth=0.5)
    bound = [point.product_us for point in points]
    panel.plot(x, bound, color="0.0", linestyle=":", marker="^", markersize=4)
    label = "items in the catalogue" if name == "num_items" else name
    panel.set(xlabel=f"{label} (log)", ylabel="us a user", ylim=(0, None))
    drawing.plain_log(panel, "x")
    ends, below = {"one product with all items": (x[-1], bound[-1])}, 0.0
    for stage, values in zip(STAGES, stages, strict=True):
        ends[stage] = (x[-1], below + values[-1] / 2)
        below += values[-1]
    drawing.label_column(panel, ends)
    return canvas


def rates_of_peers(peers: Mapping[str, Any]) -> drawing.Canvas:
    """Bars of the highest rate within the p99, medians over the runs of benchmarks/results/peers.json."""
    runs = peers["runs"]
    names = sorted({name for run in runs for name in run["rate"]}, key=lambda name: -_median(runs, "rate", name))
    rates = [_median(runs, "rate", name) for name in names]
    others = [name for name in names if name != OURS]
    title = f"The same model: {_median(runs, 'times', others[0]):.1f} times the requests of {others[0]}"
    canvas = drawing.canvas(title, height=0.35 * len(names) + 0.6)
    [panel] = canvas.panels
    panel.barh(names, rates, color=["0.0" if name == OURS else "0.6" for name in names], height=0.6)
    panel.invert_yaxis()
    for place, rate in enumerate(rates):
        panel.annotate(f" {rate:,.0f}", (rate, place), va="center", fontsize=drawing.TEXT)
    panel.set(xlabel=f"requests a second within a p99 of {runs[0]['p99_ms']:.0f} ms, {peers['machine']}", xticks=[])
    panel.spines["bottom"].set_visible(False)
    panel.tick_params(axis="y", length=0, labelsize=drawing.TEXT)
    return canvas


def gain_of_generation(rows: Sequence[Mapping[str, Any]]) -> drawing.Canvas:
    """Lines of what a generated item adds to the first vector, by the length of histories, ± two standard errors."""
    systems = list(dict.fromkeys(row["system"] for row in rows))
    whole = {row["system"]: row for row in rows if row["history"] == EVERYBODY}
    told = ", ".join(f"{name} {whole[name]['gain']:+.1%}" for name in systems)
    canvas = drawing.canvas(f"Recall@{rows[0]['cutoff']} that a generated item adds: {told}")
    [panel] = canvas.panels
    panel.axhline(0, color=drawing.FAINT, linewidth=0.8)
    ends = {}
    for number, name in enumerate(systems):
        own = [row for row in rows if row["system"] == name and row["history"] != EVERYBODY]
        own = [row for row in own if row["users"] >= MIN_USERS]
        grey, dash, marker = drawing.LOOKS[number]
        # beside each other: bars that cover each other cannot be read
        places = [place + 0.12 * number for place in range(len(own))]
        errors = [200 * row["standard_error"] / row["theirs"] for row in own]
        gains = [100 * row["gain"] for row in own]
        panel.errorbar(places, gains, errors, color=grey, linestyle=dash, marker=marker, markersize=4, capsize=2)
        panel.set_xticks(range(len(own)), [row["history"] for row in own])
        ends[name] = (places[-1], gains[-1])
    panel.set(xlabel="items in the history", ylabel="% of recall, ± two standard errors")
    drawing.label_column(panel, ends)
    return canvas


def recall_by_count(rows: Sequence[Mapping[str, Any]]) -> drawing.Canvas:
    """Lines of recall against K, a form of generated items each; the epoch of tuning without any is a level."""
    rows = [row for row in rows if row["study"] == "K"]
    panels = list(dict.fromkeys((row["data_set"], row["system"]) for row in rows))
    gains = {
        system: max(row["gain"] for row in rows if row["system"] == system and row["K"])
        for system in dict.fromkeys(system for _, system in panels)
    }
    told = ", ".join(f"{name} {gain:+.1%}" for name, gain in gains.items())
    canvas = drawing.canvas(f"K = 1 to 6 items add at most: {told}", len(panels), height=2.4)
    for panel, (data_set, system) in zip(canvas.panels, panels, strict=True):
        own = [row for row in rows if (row["data_set"], row["system"]) == (data_set, system)]
        lines = _by_form(own, "K", lambda row: float(row["ours"]))
        _name_panel(panel, f"{DATA_SETS.get(data_set, data_set)}, {system}", "generated items (K)")
        panel.set_ylabel(f"Recall@{own[0]['cutoff']}, validation")
        _draw_forms(panel, lines)
    return canvas


def quality_by_share(rows: Sequence[Mapping[str, Any]]) -> drawing.Canvas:
    """Lines of NDCG against the share of the first of two steps; a share of 1 is the first step alone."""
    rows = [row for row in rows if row["study"] == "m : n" and row["system"] == "blend"]
    panels = list(dict.fromkeys((row["data_set"], row["m"] + row["n"]) for row in rows))
    drawn = [
        _by_form(
            [row for row in rows if (row["data_set"], row["m"] + row["n"]) == panel],
            "m",
            lambda row: float(row["metrics"][f"NDCG@{row['m'] + row['n']}"]),
        )
        for panel in panels
    ]
    # each form against its own first step, which is the last point of its line
    best = max(max(y for _, y in points[:-1]) / points[-1][1] - 1 for lines in drawn for points in lines.values())
    canvas = drawing.canvas(f"A second step adds {best:+.1%} of NDCG at most, by any m : n", len(panels), height=2.0)
    for panel, (data_set, length), lines in zip(canvas.panels, panels, drawn, strict=True):
        _name_panel(panel, f"{DATA_SETS.get(data_set, data_set)}, m + n = {length}", "places of the first step (m)")
        panel.set_ylabel(f"NDCG@{length}, validation")
        _draw_forms(panel, lines)
    return canvas


def _draw_forms(panel: "Axes", lines: Mapping[str, Sequence[drawing.Point]]) -> None:
    """A line a form with its label at the end; a form of one point is a level."""
    levels = {name: points[0][1] for name, points in lines.items() if len(points) == 1}
    for level in levels.values():
        panel.axhline(level, color=drawing.FAINT, linewidth=0.8)
    lines = {name: points for name, points in lines.items() if name not in levels}
    for number, points in enumerate(lines.values()):
        grey, dash, marker = drawing.LOOKS[number % len(drawing.LOOKS)]
        panel.plot(*zip(*points, strict=True), color=grey, linestyle=dash, marker=marker, markersize=4)
    # before the labels, which lie where the points are then
    drawing.widen(panel)
    ends = {name: points[-1] for name, points in lines.items()}
    right = max(x for x, _ in ends.values())
    drawing.label_column(panel, ends | {name: (right, level) for name, level in levels.items()})


def _by_form(
    rows: Sequence[Mapping[str, Any]], name: str, value: Callable[[Mapping[str, Any]], float]
) -> dict[str, list[drawing.Point]]:
    lines: dict[str, list[drawing.Point]] = {}
    for row in rows:
        lines.setdefault(row["form"], []).append((row[name], value(row)))
    return {form: sorted(points) for form, points in lines.items()}


def _name_panel(panel: "Axes", title: str, xlabel: str) -> None:
    from matplotlib.ticker import MaxNLocator

    panel.set_title(title, fontsize=drawing.SMALL, loc="left")
    panel.set_xlabel(xlabel)
    panel.xaxis.set_major_locator(MaxNLocator("auto", integer=True))


def _median(runs: Sequence[Mapping[str, Any]], what: str, name: str) -> float:
    return float(statistics.median(run[what][name] for run in runs if name in run[what]))


def draw_kept(results: Path, folder: Path) -> list[Path]:
    """Figures of what benchmarks printed and the repository keeps."""
    peers = json.loads((results / "peers.json").read_text(encoding="utf-8"))
    lines = (results / "generation.jsonl").read_text(encoding="utf-8").splitlines()
    generation = gain_of_generation([json.loads(line) for line in lines])
    forms = [json.loads(line) for line in (results / "forms.jsonl").read_text(encoding="utf-8").splitlines()]
    return [
        rates_of_peers(peers).save(folder / "peers.png"),
        generation.save(folder / "generation.png"),
        *_draw_kept_forms(forms, folder),
    ]


def _draw_kept_forms(rows: Sequence[Mapping[str, Any]], folder: Path) -> Iterator[Path]:
    for data_set in dict.fromkeys(row["data_set"] for row in rows):
        own = [row for row in rows if row["data_set"] == data_set]
        suffix = "" if data_set == FIRST else f"-{data_set.lower()}"
        yield recall_by_count(own).save(folder / f"forms{suffix}.png")
        yield quality_by_share(own).save(folder / f"form-quotas{suffix}.png")


def write(folder: Path, figures: Mapping[str, drawing.Canvas], facts: Mapping[str, Any]) -> Path:
    """PNG files and index.html in `folder`; returns the page."""
    parts = []
    for name, canvas in figures.items():
        path = canvas.save(folder / f"{name.replace(' ', '-')}.png")
        image = base64.b64encode(path.read_bytes()).decode()
        parts.append(f'<h2>{html.escape(name)}</h2><img alt="{html.escape(name)}" src="data:image/png;base64,{image}">')
    body = "".join(parts)
    shown = html.escape(json.dumps(facts, indent=1))
    page = folder / "index.html"
    page.write_text(
        f'<!doctype html><meta charset="utf-8"><title>recall bench</title>'
        f"<style>body{{font:15px sans-serif;max-width:60em;margin:2em auto}}img{{max-width:100%}}"
        f"pre{{background:#f4f4f4;padding:1em;overflow:auto}}</style>"
        f"<h1>recall bench</h1>{body}<h2>Figures as JSON</h2><pre>{shown}</pre>\n",
        encoding="utf-8",
    )
    return page
