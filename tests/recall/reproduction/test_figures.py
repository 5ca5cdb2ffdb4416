"""Figures exist where their rows do, are small, and the page names no other."""

from dataclasses import replace

import pytest

from recall.reproduction.figures import available, draw
from recall.reproduction.report import render
from recall.reproduction.results import Row

ROW = Row(dataset="beauty", system="recgpt", recipe="best", seed=0, split="test", metrics={"NDCG@10": 0.05}, seconds=60)


def prompts():
    return [replace(ROW, split="valid", study="prompts", point={"K": k}, metrics={"NDCG@10": 0.05 + k}) for k in (1, 0)]


def quotas():
    point = {"m": 3, "n": 7}
    return [replace(ROW, split="valid", study="quotas", point=point, metrics={"HR@10": 0.1, "NDCG@10": 0.05})]


def diversity():
    metrics = {"Recall@50": 0.2, "Diversity@50": 0.7}
    return [replace(ROW, split="valid", study="diversity", point={"lambda": 0.1}, metrics=metrics)]


def systems():
    return [replace(ROW, system=name, measure_seconds=2.0, num_users=1000) for name in ("recgpt", "sasrec", "bpr")]


def names(rows):
    return [figure.name for figure in available(rows)]


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([], []),
        ([ROW], []),
        (prompts(), ["prompts"]),
        (quotas(), ["quotas"]),
        (diversity(), ["diversity"]),
        (systems(), ["training", "serving"]),
        ([replace(row, max_epochs=1) for row in systems()], []),
    ],
)
def test_a_figure_needs_its_rows(rows, expected):
    assert names(rows) == expected


def test_points_stand_in_order():
    figure = available(prompts())[0]
    assert figure.panels(prompts()) == {"beauty": {"RecGPT": [(0, 0.05), (1, 1.05)]}}


def test_cost_of_an_answer_is_in_milliseconds():
    serving = available(systems())[1]
    assert serving.panels(systems())["beauty"]["bpr"] == [(2.0, 0.05)]


def test_files_are_small(tmp_path):
    pytest.importorskip("matplotlib", reason="the extra `plots` is not installed")
    paths = draw([*prompts(), *quotas(), *diversity(), *systems()], tmp_path / "figures")
    assert [path.stem for path in paths] == ["prompts", "quotas", "diversity", "training", "serving"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
    assert max(path.stat().st_size for path in paths) < 100_000


def test_the_page_shows_what_there_is():
    assert "](figures/prompts.png)" in render(prompts())
    assert "## Figures" not in render([ROW])


def test_titles_say_what_the_rows_show():
    titles = [figure.title(figure.panels(rows)) for rows in (prompts(), diversity()) for figure in available(rows)]
    assert titles[0] == "The number of generated items a position moves NDCG by 95.2% at most"
    assert titles[1].startswith("Diversity from 0.70 to 0.70 costs at most 1% of the recall")
    better = [replace(row, metrics={"NDCG@10": 0.06}) if row.system == "recgpt" else row for row in systems()]
    training = available(better)[0]
    assert training.title(training.panels(better)) == "Quality against training time: RecGPT ranks best"


def test_several_seeds_are_one_point():
    seeds = [replace(row, seed=seed, seconds=60 + 20 * seed) for row in systems() for seed in (0, 1)]
    training = available(seeds)[0]
    assert training.panels(seeds)["beauty"]["bpr"] == [(70, 0.05)]


def test_a_superseded_recipe_is_not_drawn():
    old = [replace(row, recipe_digest="old", seed=1) for row in systems()]
    new = [replace(row, recipe_digest="new", metrics={"NDCG@10": 0.06}) for row in systems()]
    training = available([*old, *new])[0]
    assert training.panels([*old, *new])["beauty"] == {name: [(60, 0.06)] for name in ("recgpt", "sasrec", "bpr")}
