"""The table run by run: what is there is skipped, an interruption costs one run, each run leaves whole rows."""

import json
from dataclasses import replace

import numpy as np
import pytest

from model.catalogue import Ragged
from recall.reproduction.results import Results
from recall.reproduction.runner import Run, RunCallbacks, RunPlan, recipe_for, reproduce

LEAVE_ONE_OUT = {f"{name}@{k}" for name in ("HR", "NDCG") for k in (5, 10, 20, 50)}


class Notes(RunCallbacks):
    """Keeps what happened; may stop the whole at an epoch."""

    def __init__(self, stop_in=None):
        self.happened, self.stop_in, self.reasons = [], stop_in, []

    def skipped(self, run):
        self.happened.append(("skipped", run.system, run.seed))

    def epoch(self, run, report):
        if run.system == self.stop_in:
            raise KeyboardInterrupt

    def finished(self, run, rows):
        self.happened.append(("finished", run.system, run.seed))

    def failed(self, run, reason):
        self.happened.append(("failed", run.system, run.seed))
        self.reasons.append(reason)


@pytest.fixture
def plan(folder, recipe_file):
    return RunPlan(datasets={"circles": folder}, systems=("popularity", "sasrec"), num_seeds=2)


@pytest.fixture
def results(tmp_path):
    return Results(tmp_path / "quality.jsonl")


def test_seeds_come_one_after_the_other_and_what_is_counted_runs_once(plan):
    runs = [(run.system, run.seed) for run in plan.runs()]
    assert runs == [("popularity", 0), ("sasrec", 0), ("sasrec", 1)]


@pytest.mark.parametrize("processes", [1, 2, 5])
def test_processes_share_the_runs(plan, processes):
    shares = [replace(plan, share=(number, processes)).runs() for number in range(processes)]
    assert sorted(str(run) for runs in shares for run in runs) == sorted(map(str, plan.runs()))


def test_without_systems_the_whole_recipe_runs(plan):
    both = replace(plan, systems=None, recipes=("paper", "best"), num_seeds=1)
    assert [(run.recipe, run.system) for run in both.runs()] == [
        ("paper", "popularity"),
        *(("best", system) for system in ("popularity", "sasrec", "recgpt", "comirec", "wrong")),
    ]


def test_an_unknown_system_is_refused_before_anything_runs(plan, results):
    with pytest.raises(ValueError, match=r"has no arm 'sasrek'; it has popularity"):
        reproduce(replace(plan, systems=("popularity", "sasrek")), results, RunCallbacks())
    assert results.rows() == []


def test_a_row_says_what_was_done(plan, results):
    row = reproduce(replace(plan, systems=("recgpt",), num_seeds=1), results, RunCallbacks())[0]
    assert (row.dataset, row.system, row.recipe, row.seed, row.split) == ("circles", "recgpt", "best", 0, "test")
    assert set(row.metrics) == LEAVE_ONE_OUT
    assert set(row.valid) >= {"ndcg@10"}
    assert (row.num_users, row.epochs, row.max_epochs) == (39, 2, None)
    assert row.settings["recipe"]["stages"][1] == {"num_epochs": 1, "num_prompts": 1}
    assert row.settings["network"]["num_items"] == 30
    assert row.settings["plan"]["prompts"]["num_steps"] == 2
    assert row.seconds > 0 < row.peak_memory_mb
    assert {"torch", "code"} <= set(row.versions)
    assert "cores of" in row.machine


def test_what_is_returned_is_what_the_file_has(plan, results):
    rows = reproduce(plan, results, RunCallbacks())
    assert json.loads(json.dumps([row.to_json() for row in rows])) == [row.to_json() for row in results.rows()]


def test_what_is_there_is_skipped(plan, results):
    reproduce(replace(plan, num_seeds=1), results, RunCallbacks())
    notes = Notes()
    fresh = reproduce(plan, results, notes)
    assert notes.happened == [("skipped", "popularity", 0), ("skipped", "sasrec", 0), ("finished", "sasrec", 1)]
    assert [row.seed for row in fresh] == [1]


def test_an_interruption_costs_the_run_under_way_alone(plan, results):
    with pytest.raises(KeyboardInterrupt):
        reproduce(plan, results, Notes(stop_in="sasrec"))
    assert [row.system for row in results.rows()] == ["popularity"]
    reproduce(plan, results, RunCallbacks())
    assert [(row.system, row.seed) for row in results.rows()] == [("popularity", 0), ("sasrec", 0), ("sasrec", 1)]


def test_a_run_that_fails_does_not_cost_the_others(plan, results):
    notes = Notes()
    reproduce(replace(plan, systems=("wrong", "popularity"), num_seeds=1), results, notes)
    assert notes.happened == [("failed", "wrong", 0), ("finished", "popularity", 0)]
    assert "ValueError" in notes.reasons[0] or "RuntimeError" in notes.reasons[0]


def test_another_recipe_is_another_run(plan, results, recipe_file):
    single = replace(plan, systems=("sasrec",), num_seeds=1)
    reproduce(single, results, RunCallbacks())
    recipe_file.write_text(recipe_file.read_text().replace("dim: 8", "dim: 4"))
    recipe_for.cache_clear()
    assert len(reproduce(single, results, RunCallbacks())) == 1


def test_a_quick_try_is_marked_and_is_no_finished_run(plan, results):
    single = replace(plan, systems=("sasrec",), num_seeds=1)
    quick = reproduce(replace(single, max_epochs=1), results, RunCallbacks())
    assert (quick[0].max_epochs, quick[0].epochs) == (1, 1)
    assert reproduce(single, results, RunCallbacks())[0].max_epochs is None


def test_a_cut_that_cuts_nothing_is_no_quick_try(plan, results):
    rows = reproduce(replace(plan, systems=("sasrec",), num_seeds=1, max_epochs=9), results, RunCallbacks())
    assert rows[0].max_epochs is None


def test_the_same_seed_gives_the_same_figures(plan, tmp_path):
    single = replace(plan, systems=("sasrec",), num_seeds=1)
    first, second = (reproduce(single, Results(tmp_path / name), RunCallbacks())[0] for name in ("a.jsonl", "b.jsonl"))
    assert first.metrics == second.metrics


def test_the_test_split_decides_nothing(plan, results, circle_data, tmp_path):
    poisoned = replace(circle_data, test=Ragged.of([[1 + user % 7] for user in range(40)]))
    poisoned.save(tmp_path / "poisoned")
    single = replace(plan, systems=("recgpt",), num_seeds=1)
    rows = reproduce(single, results, RunCallbacks()) + reproduce(
        replace(single, datasets={"circles": tmp_path / "poisoned"}), results, RunCallbacks()
    )
    assert len(rows) == 2
    assert rows[0].valid == rows[1].valid
    assert rows[0].settings["plan"] == rows[1].settings["plan"]
    assert rows[0].metrics != rows[1].metrics


def test_metrics_of_popularity_by_hand(plan, results, circle_data):
    metrics = reproduce(replace(plan, systems=("popularity",)), results, RunCallbacks())[0].metrics
    ranked = [*circle_data.catalogue.by_popularity.tolist()]
    hits = []
    for user in circle_data.users_with_targets("test").tolist():
        past = circle_data.history(user, "test")
        hits.append(circle_data.targets(user, "test")[0] in [row for row in ranked if row not in past][:5])
    assert metrics["HR@5"] == pytest.approx(np.mean(hits), abs=0.06)  # ties may fall otherwise


def test_a_run_has_a_name_for_files():
    assert Run("beauty", "recgpt", "best", 2).slug == "beauty-recgpt-best-2"
