"""Studies: a row a point, on validation, each point once; what needs a checkpoint says which."""

from dataclasses import replace

import numpy as np
import pytest

from model.catalogue import Ragged
from model.recipes.schema import PlanSearch, Recipe, Stage
from recall.reproduction.results import Results
from recall.reproduction.runner import Run, RunCallbacks, RunPlan, recipe_for, reproduce
from recall.reproduction.studies import LAMBDAS, Study, diversity, run_study, with_prompts


@pytest.fixture
def study(circle_data, recipe_file, tmp_path):
    def make(name, data=circle_data):
        return Study(name=name, dataset="circles", data=data, checkpoints=tmp_path / "checkpoints", max_epochs=1)

    return make


@pytest.fixture
def results(tmp_path):
    return Results(tmp_path / "quality.jsonl")


@pytest.fixture
def kept(folder, recipe_file, tmp_path, results):
    """A checkpoint of seed 0, as `recall reproduce` keeps it."""

    class Keep(RunCallbacks):
        def trained(self, run, checkpoint):
            checkpoint.save(tmp_path / "checkpoints" / run.slug)

    reproduce(RunPlan(datasets={"circles": folder}, systems=("recgpt", "comirec"), num_seeds=1), results, Keep())


def test_each_number_of_prompts_is_a_row(study, results):
    rows = run_study(study("prompts"), results)
    assert [row.point for row in rows] == [{"K": K} for K in range(7)]
    assert {(row.split, row.study, row.max_epochs) for row in rows} == {("valid", "prompts", 1)}
    assert all({"HR@10", "NDCG@10"} <= set(row.metrics) for row in rows)


def test_quotas_train_nothing_and_go_on_where_they_stopped(study, results, kept):
    rows = run_study(study("quotas"), results)
    assert [sum(row.point.values()) for row in rows] == [10] * 9 + [20] * 19
    assert set(rows[0].metrics) == {"HR@10", "NDCG@10"}
    assert run_study(study("quotas"), results) == []


def test_lambda_buys_diversity(study, results, kept, circle_data):
    catalogue = replace(circle_data.catalogue, categories=Ragged.of([item % 4] for item in range(30)))
    rows = run_study(study("diversity", replace(circle_data, catalogue=catalogue)), results)
    assert [row.point["lambda"] for row in rows] == [*LAMBDAS]
    assert all(set(row.metrics) == {"Recall@50", "Diversity@50"} for row in rows)


def test_a_missing_checkpoint_is_named_with_the_way_to_it(study, results):
    with pytest.raises(
        ValueError, match=r"circles-recgpt-best-0: `recall reproduce --datasets circles --systems recgpt"
    ):
        run_study(study("quotas"), results)


def test_data_without_categories_have_no_diversity(study, results):
    with pytest.raises(ValueError, match="circles has no categories"):
        run_study(study("diversity"), results)


def test_a_recipe_that_learns_no_prompts_has_no_study_of_them(study, results, recipe_file):
    recipe_file.write_text(recipe_file.read_text(encoding="utf-8").replace(", num_prompts: 1}", "}"), encoding="utf-8")
    recipe_for.cache_clear()
    with pytest.raises(ValueError, match="the recipe of circles has no stage of prompts"):
        run_study(study("prompts"), results)


def test_an_unknown_study_names_the_known(study):
    with pytest.raises(ValueError, match=r"unknown study 'colour'; known are prompts, quotas, diversity"):
        study("colour")


def test_prompts_replace_those_of_the_recipe():
    stages = (Stage(num_epochs=1), Stage(num_epochs=1, num_prompts=1))
    recipe = Recipe(name="r", arm="recgpt", system="recgpt", stages=stages, plan=PlanSearch(num_steps=(1, 2)))
    assert [s.num_prompts for s in with_prompts(recipe, 3).stages] == [0, 3]
    assert (with_prompts(recipe, 3).plan.num_prompts, with_prompts(recipe, 3).plan.placements) == ((3,), ("all",))
    assert with_prompts(recipe, 0).plan.placements == ("none",)


def test_diversity_by_hand():
    categories = Ragged.of([[0], [0, 1], [1], []])
    # pairs of 1, 2, 3: two of three share one; of 1, 4: none
    assert diversity(np.array([[1, 2, 3]]), categories) == pytest.approx(1 / 3)
    assert diversity(np.array([[1, 4, 0], [1, 2, 0]]), categories) == pytest.approx(0.5)


def test_lambda_starts_at_nothing():
    assert LAMBDAS[0] == 0
    assert sorted(LAMBDAS) == [*LAMBDAS]


def test_a_study_is_of_the_best_recipe_and_seed_0(study):
    assert study("quotas").run == Run("circles", "recgpt", "best", 0)
    assert recipe_for("circles", "best", "recgpt").stages[1].num_prompts == 1
