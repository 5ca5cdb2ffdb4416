"""Figures of a benchmark: PNG files and one HTML page that holds them and the JSON. Needs the extra `bench`."""

import base64
import html
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recall.bench.curves import Point
from recall.bench.http import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Draw = Callable[["Axes"], None]


def latency_against_rate(curves: Sequence[Curve]) -> Draw:
    from matplotlib.ticker import LogLocator

    def draw(axes: "Axes") -> None:
        for number, curve in enumerate(curves):
            trials = sorted(curve.trials, key=lambda trial: trial.load.rate)
            rates = [trial.load.rate * trial.load.users_a_request for trial in trials]
            for name, style in (("p50_ms", "o--"), ("p99_ms", "o-")):
                values = [getattr(trial.measured, name) for trial in trials]
                axes.plot(rates, values, style, color=f"C{number}", markersize=3, label=f"{curve.name}, {name[:3]}")
        axes.set(xlabel="users a second, offered", ylabel="ms", xscale="log", yscale="log")
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            # 2,000, not 2 x 10^3
            axis.set_major_formatter("{x:,.0f}")
            axis.set_minor_formatter("")
        axes.tick_params(which="both", labelsize=6)
        # long enough to tell a broken line from a whole one
        axes.legend(fontsize=6, handlelength=5)

    return draw


def cost_against(points: Sequence[Point], name: str) -> Draw:
    """Stages stacked, the bound beside them."""

    def draw(axes: "Axes") -> None:
        x = [getattr(point, name) for point in points]
        stages = [[getattr(point, f"{stage}_us") for point in points] for stage in ("encode", "search", "merge")]
        axes.stackplot(x, stages, labels=["encode", "search", "merge"], alpha=0.6)
        axes.plot(x, [point.product_us for point in points], "k:", label="one product with all items")
        axes.set(xlabel=name, ylabel="us a user", xscale="log")
        axes.legend(fontsize=6)

    return draw


def write(folder: Path, figures: Mapping[str, Draw], facts: Mapping[str, Any]) -> Path:
    """PNG files and index.html in `folder`; returns the page."""
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for name, draw in figures.items():
        canvas = Figure(figsize=(6, 3.6), layout="constrained")
        axes = canvas.subplots()
        draw(axes)
        axes.set_title(name)
        path = folder / f"{name.replace(' ', '-')}.png"
        canvas.savefig(path, dpi=110, metadata={"Software": None})
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
