"""The generated pages from rows by hand: mean, spread, gaps, provenance, and rows that may not be reported."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from model.recipes.digest import recipe_digest
from model.recipes.files import RecipeName, read_sections
from recall.reproduction import provenance
from recall.reproduction.cells import PUBLISHED, Dataset, Published, ResultsTable, Variant, number
from recall.reproduction.report import render
from recall.reproduction.results import Results, Row, settings_digest
from recall.reproduction.runner import recipe_for

ROOT = Path(__file__).parents[3]
ROW = Row(
    dataset="beauty",
    system="recgpt",
    recipe="best",
    seed=0,
    split="test",
    metrics={"HR@5": 0.1, "NDCG@5": 0.05},
    seconds=90,
    epochs=3,
    recipe_digest="r",
    versions={"commit": "abc"},
    date="2026-01-02",
    machine="2 cores",
)
PAGE = Published(
    "the paper",
    {"sasrec": "SASRec", "recgpt": "RecGPT"},
    [
        Dataset(
            "beauty",
            "Data",
            ["HR@5", "NDCG@5"],
            paper={"sasrec": [0.04, 0.02], "recgpt": [0.05, 0.03]},
            record={"who": "X", "values": [0.2, 0.1]},
        )
    ],
)


def lines(*rows):
    return render(rows, PAGE).splitlines()


def test_mean_and_spread_over_seeds():
    second = replace(ROW, seed=1, metrics={"HR@5": 0.12, "NDCG@5": 0.05})
    # the sample's deviation of .10 and .12 is .02 / sqrt(2)
    assert "| RecGPT | .0500 / .0300 | not run | .1100±.0141 / .0500±.0000 | .2000 / .1000 (X) |" in lines(ROW, second)


def test_one_seed_has_no_spread():
    assert "| RecGPT | .0500 / .0300 | not run | .1000 / .0500 | .2000 / .1000 (X) |" in lines(ROW)


def test_a_cell_without_rows_says_so():
    assert "| SASRec | .0400 / .0200 | not run | not run |  |" in lines()
    assert "Nothing of this data set has been run yet." in provenance.render([], PAGE).splitlines()


def test_what_no_recipe_has_is_not_missing():
    page = replace(PAGE, systems={**PAGE.systems, "fism": "FISM"})
    assert "| FISM |  |  | not run |  |" in render([], page).splitlines()
    # but what was run is shown, planned or not
    assert (
        "| FISM |  | .1000 / .0500 | not run |  |"
        in render([replace(ROW, system="fism", recipe="paper")], page).splitlines()
    )


def test_data_without_figures_of_the_paper_has_no_columns_for_them():
    page = replace(PAGE, datasets=[Dataset("kuairand", "Data", ["HR@5", "NDCG@5"])])
    assert "| RecGPT | .1000 / .0500 |" in render([replace(ROW, dataset="kuairand")], page).splitlines()
    paper = replace(ROW, dataset="kuairand", recipe="paper")
    assert "| RecGPT | .1000 / .0500 | not run |" in render([paper], page).splitlines()


def test_each_cell_has_its_command_and_its_settings():
    command = "`recall reproduce --data ../shared/data --datasets beauty --systems recgpt --recipe best --seeds 3`"
    rows = [replace(ROW, settings={"plan": {}}), replace(ROW, seed=2, settings={"plan": {}})]
    page = provenance.render(rows, PAGE).splitlines()
    digest = settings_digest({"plan": {}})
    assert f"| RecGPT | best | 0, 2 | 3 | 90 | 2 cores | 2026-01-02 | abc | r | {digest} | {command} |" in page
    assert command not in render(rows, PAGE)


def test_a_variant_of_the_ablation_has_its_command():
    page = replace(PAGE, ablation={"whole": Variant("all of it")})
    text = provenance.render([replace(ROW, system="whole", recipe="ablation")], page)
    assert "| all of it | ablation | 0 |" in text
    assert "--systems whole --recipe ablation --seeds 1`" in text


@pytest.mark.parametrize("change", [{"max_epochs": 1}, {"study": "mine"}, {"recipe": "mine"}], ids=str)
def test_tries_studies_and_other_recipes_are_no_cells(change):
    row = replace(ROW, **change)
    assert "| RecGPT | .0500 / .0300 | not run | not run | .2000 / .1000 (X) |" in lines(row)
    assert "Nothing of this data set has been run yet." in provenance.render([row], PAGE)


def test_a_recipe_that_changed_starts_its_cell_anew():
    changed = replace(ROW, seed=1, recipe_digest="new", metrics={"HR@5": 0.3, "NDCG@5": 0.3})
    assert any("| .3000 / .3000 |" in line for line in lines(ROW, changed))


def test_a_metric_that_was_not_measured_is_not_invented():
    assert any("| .1000 / not run |" in line for line in lines(replace(ROW, metrics={"HR@5": 0.1})))


@pytest.mark.parametrize(("value", "text"), [(0.044, ".0440"), (0.93304, ".9330"), (1, "1.0000"), (0, ".0000")])
def test_numbers_as_the_field_prints_them(value, text):
    assert number(value) == text


@pytest.mark.parametrize("recipe", sorted((ROOT / "model/recipes").glob("*.yaml")), ids=lambda recipe: recipe.stem)
def test_every_system_that_is_trained_has_a_label_in_the_table(recipe):
    sections = {*(yaml.safe_load(recipe.read_text()).get("best") or {})} - {"like", "common"}
    assert sections <= {*Published.load(PUBLISHED).systems}


def test_published_figures_are_whole():
    published = Published.load(PUBLISHED)
    for dataset in published.datasets:
        assert {*dataset.paper} <= {*published.systems}
        assert {len(values) for values in dataset.paper.values()} <= {len(dataset.metrics)}
    paper = {dataset.name: dataset.paper for dataset in published.datasets}
    assert paper["beauty"]["recgpt"] == [0.0440, 0.0289, 0.0654, 0.0357]
    assert [len(paper[name]) for name in ("beauty", "sports", "toys", "yelp")] == [12] * 4


def test_the_rows_of_the_repository_can_be_read():
    assert render(Results(ROOT / "benchmarks" / "results" / "quality.jsonl").rows())


def test_the_command_beside_a_figure_runs_the_recipe_that_gave_it():
    cells = ResultsTable(Results(ROOT / "benchmarks" / "results" / "quality.jsonl").rows())
    stale = {
        (dataset, system, recipe)
        for (dataset, system, recipe, _), cell in cells.cells.items()
        if {row.recipe_digest for row in cell.rows} != {recipe_digest(recipe_for(dataset, recipe, system))}
    }
    assert not stale, "recipes that changed after their rows: run them again, or take the rows out"


def test_ablation_sets_each_variant_against_another_seed_by_seed():
    page = replace(PAGE, ablation={"whole": Variant("all of it"), "less": Variant("without x", "whole")})
    whole = [
        replace(ROW, system="whole", recipe="ablation", seed=n, metrics={"HR@5": v, "NDCG@5": 0.05})
        for n, v in ((0, 0.10), (1, 0.20))
    ]
    less = [
        replace(row, system="less", metrics={"HR@5": row.metrics["HR@5"] - 0.01 * (1 + row.seed), "NDCG@5": 0.06})
        for row in whole
    ]
    text = render([*whole, *less], page).splitlines()
    assert "| all of it | 2 | .1500±.0707 / .0500±.0000 |  |  |" in text
    assert "| without x | 2 | .1350±.0636 / .0600±.0000 | -.0150±.0071 / +.0100±.0000 | all of it |" in text


def test_without_ablation_rows_there_is_no_ablation():
    assert not [line for line in lines(ROW) if "gain" in line]


def test_every_variant_of_the_recipe_is_in_the_table():
    published = Published.load(PUBLISHED)
    assert {*published.ablation} == {*read_sections(RecipeName("beauty", "ablation"))}
    assert {variant.against for variant in published.ablation.values()} <= {*published.ablation, None}
