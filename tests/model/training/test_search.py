"""The search: what is searched of which system, a journal that goes on, and validation alone as the judge."""

from dataclasses import replace

import numpy as np
import pytest

from model.catalogue import Catalogue, IdMap, Ragged
from model.data.sequences import SequenceData
from model.networks import SYSTEMS, build_network
from model.recipes.schema import Recipe, Stage
from model.training.search import SPACE, Choice, Search, settings_now, space_of, with_settings

N, USERS = 20, 30
TINY = Recipe(
    name="tiny",
    arm="sasrec",
    system="sasrec",
    stages=(Stage(num_epochs=2, learning_rate=0.002),),
    network={"dim": 64, "max_length": 6},
    batch_users=128,
    evaluate_every=1,
    max_eval_users=20,
)


@pytest.fixture(scope="module")
def data():
    train, valid, test = ([[1 + (u + skip + n) % N for n in range(k)] for u in range(USERS)] for skip, k in SKIPS)
    catalogue = Catalogue(IdMap.of(range(N)), IdMap.of(range(USERS)), np.ones(N, dtype=np.int64))
    return SequenceData("circles", catalogue, *map(Ragged.of, (train, valid, test)), "leave-one-out")


SKIPS = ((0, 5), (5, 1), (6, 1))


@pytest.fixture
def search(data, tmp_path):
    pytest.importorskip("optuna", reason="the extra `tune` is not installed")
    return Search(TINY, data, tmp_path / "new" / "journal.jsonl")


def test_a_system_is_searched_for_what_it_has():
    assert "network.num_heads" in space_of(TINY)
    assert "network.num_heads" not in space_of(replace(TINY, system="gru4rec"))
    assert "network.num_interests" in space_of(replace(TINY, system="comirec"))


@pytest.mark.parametrize("system", [name for name in SYSTEMS if name not in ("popularity", "blend")])
def test_every_point_of_the_space_is_a_network(system):
    recipe = replace(TINY, system=system, network={})
    for place in (0, -1):
        point = {k: w.values[place] if isinstance(w, Choice) else (w.low, w.high)[place] for k, w in SPACE.items()}
        chosen = with_settings(recipe, {name: point[name] for name in space_of(recipe)})
        assert build_network(system, {**chosen.network, "num_items": 5, "num_users": 2}).kind == system


def test_the_recipes_own_point():
    assert settings_now(TINY) == {
        "network.dim": 64,
        "batch_users": 128,
        "ema_decay": 0.998,
        "learning_rate": 0.002,
    }


def test_later_stages_keep_their_ratio():
    stages = (Stage(num_epochs=1, learning_rate=0.002), Stage(num_epochs=1, learning_rate=0.001))
    chosen = with_settings(replace(TINY, stages=stages), {"learning_rate": 0.004, "network.dim": 96, "batch_users": 9})
    assert [stage.learning_rate for stage in chosen.stages] == [0.004, 0.002]
    assert (chosen.network["dim"], chosen.network["max_length"], chosen.batch_users) == (96, 6, 9)


def test_the_first_trial_is_the_recipe_as_it_is(search):
    trials = []
    best = search.run(1, trials.append)
    assert trials[0].params["learning_rate"] == pytest.approx(0.002)
    assert best.network["dim"] == 64


def test_the_journal_goes_on_where_it_stopped(search):
    first, second, third = [], [], []
    search.run(2, first.append)
    search.run(3, second.append)
    search.run(3, third.append)
    assert [[trial.number for trial in trials] for trials in (first, second, third)] == [[0, 1], [2], []]


def test_the_test_split_is_not_read(search, data):
    poisoned = replace(data, test=Ragged.of([[N + 1000]] * USERS))
    assert replace(search, data=poisoned).run(1).network["dim"] == 64


def test_other_data_are_another_study(search, data):
    assert search.name != replace(search, data=replace(data, test=data.valid)).name


def test_a_recipe_without_stages_is_refused(search):
    with pytest.raises(ValueError, match="no stages to search settings for: it is not trained"):
        replace(search, recipe=replace(TINY, system="popularity", stages=())).run(1)


def test_a_blend_is_searched_by_its_parts(search):
    blend = replace(TINY, system="blend", stages=(), parts=(TINY,))
    with pytest.raises(ValueError, match="tune its parts"):
        replace(search, recipe=blend).run(1)


def test_an_unfinished_search_has_no_best(search):
    with pytest.raises(ValueError, match="ask for more --trials"):
        search.run(0)


def test_only_what_is_asked_for_is_searched(search):
    import optuna

    chosen = replace(search, only=("learning_rate",)).run(2)
    assert chosen == with_settings(TINY, {"learning_rate": chosen.stages[0].learning_rate})
    [study] = optuna.get_all_study_summaries(replace(search)._study({})._storage)
    assert study.n_trials == 2


def test_a_setting_that_is_not_searched_is_refused(search):
    with pytest.raises(ValueError, match=r"sasrec has no network\.num_interests to search; there are network\.dim"):
        replace(search, only=("network.num_interests",)).run(1)
