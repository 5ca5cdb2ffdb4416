"""Figures of measurements: one message each, and a page that holds them."""

import json
from pathlib import Path

import pytest

from recall.bench import plots
from recall.bench.curves import Point

pytest.importorskip("matplotlib", reason="the extra `bench` is not installed")
RESULTS = Path(__file__).parents[3] / "benchmarks" / "results"


def peers(*rates):
    names = ("recgpt-recall", "plain FastAPI")
    runs = [{"p99_ms": 30.0, "rate": dict(zip(names, pair, strict=True))} for pair in rates]
    for run in runs:
        ours = run["rate"]["recgpt-recall"]
        run["times"] = {name: ours / rate for name, rate in run["rate"].items()}
    return {"machine": "2 cores", "runs": runs}


def test_bars_are_medians_and_the_title_says_by_how_much():
    canvas = plots.rates_of_peers(peers((1000, 100), (3000, 100), (1500, 150)))
    [panel] = canvas.panels
    assert [text.get_text().strip() for text in panel.texts] == ["1,500", "100"]
    assert canvas.figure.get_suptitle() == "The same model: 10.0 times the requests of plain FastAPI"


def test_what_the_repository_keeps_can_be_drawn(tmp_path):
    paths = plots.draw_kept(RESULTS, tmp_path)
    forms = [f"{name}{data_set}.png" for data_set in ("", "-beauty") for name in ("forms", "form-quotas")]
    assert [path.name for path in paths] == ["peers.png", "generation.png", *forms]
    assert max(path.stat().st_size for path in paths) < 100_000


def gain(system, history, gain, standard_error=0.004):
    told = {"system": system, "history": history, "cutoff": 100, "theirs": 0.4, "users": 3 if history == "51" else 200}
    return told | {"gain": gain, "standard_error": standard_error}


def test_a_generated_item_is_shown_by_length_of_history():
    rows = [
        gain(name, label, 0.01 * n)
        for name in ("decoder", "blend")
        for n, label in enumerate(("all", "0", "1 to 3", "51"))
    ]
    canvas = plots.gain_of_generation(rows)
    [panel] = canvas.panels
    assert canvas.figure.get_suptitle() == "Recall@100 that a generated item adds: decoder +0.0%, blend +0.0%"
    assert [label.get_text() for label in panel.get_xticklabels()] == ["0", "1 to 3"]
    [bars] = panel.containers[0].lines[2]
    assert [round(float(top - bottom), 6) for (_, bottom), (_, top) in bars.get_segments()] == [4.0, 4.0]


def by_count(system, form, *recalls):
    told = {"study": "K", "data_set": "kuairand_pure", "system": system, "form": form, "cutoff": 100}
    return [told | {"K": k, "ours": recall, "gain": recall / 0.4 - 1} for k, recall in enumerate(recalls)]


def test_each_form_is_a_line_and_a_form_of_one_point_a_level():
    rows = [row for name in ("blend", "decoder alone") for row in by_count(name, "soft", 0.4, 0.404, 0.396)]
    rows += by_count("blend", "tuned without generation", 0.41)
    canvas = plots.recall_by_count(rows)
    assert canvas.figure.get_suptitle() == "K = 1 to 6 items add at most: blend +1.0%, decoder alone +1.0%"
    blend, _ = canvas.panels
    assert blend.get_title(loc="left") == "KuaiRand-Pure, blend"
    assert [list(line.get_ydata()) for line in blend.lines] == [[0.41, 0.41], [0.4, 0.404, 0.396]]
    assert sorted(text.get_text() for text in blend.texts) == ["soft", "tuned without generation"]


def test_a_form_is_set_against_its_own_first_step():
    told = {"study": "m : n", "data_set": "Beauty", "system": "blend"}
    rows = [
        told | {"form": form, "m": m, "n": 2 - m, "metrics": {"NDCG@2": ndcg}}
        for form, values in {"soft": (0.11, 0.1), "argmax": (0.09, 0.2)}.items()
        for m, ndcg in enumerate(values, 1)
    ]
    canvas = plots.quality_by_share([*rows, told | {"system": "decoder alone"}])
    assert canvas.figure.get_suptitle() == "A second step adds +10.0% of NDCG at most, by any m : n"
    [panel] = canvas.panels
    assert panel.get_title(loc="left") == "Amazon Beauty, m + n = 2"


def test_the_page_holds_its_figures_and_the_json(tmp_path):
    rows = json.loads((RESULTS / "engine.json").read_text())["batch"]
    canvas = plots.cost_against([Point(**row) for row in rows], "batch")
    page = plots.write(tmp_path / "bench", {"cost against batch": canvas}, {"machine": "2 cores"})
    assert (tmp_path / "bench" / "cost-against-batch.png").is_file()
    assert "data:image/png;base64," in page.read_text()
    assert "&quot;machine&quot;: &quot;2 cores&quot;" in page.read_text()
