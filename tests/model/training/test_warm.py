"""A warm start keeps the rows of the ids that both know, places new items among their neighbours, takes the rest."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.catalogue import Catalogue, IdMap, Ragged
from model.checkpoint import Checkpoint, Provenance
from model.data.sequences import SequenceData
from model.networks import SYSTEMS, build_network
from model.recipes.schema import Recipe, Stage
from model.records import ServingPlan
from model.training.batches import TrainingWindows
from model.training.fit import fit
from model.training.refit import refit, with_chosen_epochs
from model.training.warm import NEW_LENGTH, REPLAY, WarmStart, expected_lengths, place_new, tables_of, warm_recipe

OLD_ITEMS, NEW_ITEMS = [*range(100, 130)], [*range(105, 137)]
OLD_USERS, NEW_USERS = [*range(20)], [*range(4, 30)]
SASREC = Recipe(
    name="tiny",
    arm="sasrec",
    system="sasrec",
    stages=(Stage(num_epochs=8, learning_rate=0.01),),
    network={"dim": 8, "max_length": 10, "num_layers": 1, "dropout": 0.1},
    batch_users=8,
    warmup_steps=2,
    ema_decay=0.8,
    metric="recall@5",
)
FISM = replace(SASREC, system="fism", network={"dim": 8, "max_length": 10})
BLEND = replace(SASREC, system="blend", stages=(), network={"max_length": 10}, parts=(SASREC, FISM))


def circles(items, users, skip=0, length=8):
    rows = [[1 + (user + skip + n) % len(items) for n in range(length)] for user in users]
    return Ragged.of(rows)


def make_data(items, users):
    parts = [circles(items, users, skip, length) for skip, length in ((0, 8), (8, 1), (9, 1))]
    counts = np.bincount(parts[0].values, minlength=len(items) + 1)[1:]
    return SequenceData("circles", Catalogue(IdMap.of(items), IdMap.of(users), counts), *parts, "leave-one-out")


@pytest.fixture(scope="module")
def before():
    return make_data(OLD_ITEMS, OLD_USERS)


@pytest.fixture(scope="module")
def after():
    return make_data(NEW_ITEMS, NEW_USERS)


@pytest.fixture(scope="module")
def old(before):
    return fit(SASREC, before, 1)


def sizes(data):
    return {"num_items": len(data.catalogue.items), "num_users": len(data.catalogue.users)}


@pytest.mark.parametrize("kind", [kind for kind in SYSTEMS if kind != "blend"])
def test_every_system_moves_its_rows_by_id(before, after, kind):
    torch.manual_seed(3)
    start, network = (build_network(kind, sizes(data)) for data in (before, after))
    with torch.no_grad():
        for tensor in start.state_dict().values():
            tensor.normal_()
    fresh = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    # new items stand beside nothing here
    WarmStart(start, before.catalogue).fill(network, after.catalogue, Ragged.of([]))
    tables, filled, given = dict(tables_of(network, after.catalogue)), network.state_dict(), start.state_dict()
    for name, tensor in given.items():
        if name not in tables:
            assert filled[name].equal(tensor)
            continue
        is_user = tables[name] is after.catalogue.users
        ids, known = (NEW_USERS, OLD_USERS) if is_user else (NEW_ITEMS, OLD_ITEMS)
        for row, external in enumerate(ids, 1):
            same = given[name][known.index(external) + 1] if external in known else fresh[name][row]
            assert filled[name][row].equal(same)
        assert filled[name][0].equal(tensor[0])
        assert is_user or filled[name][-1].equal(tensor[-1])


def test_a_new_item_begins_among_its_neighbours():
    table = torch.randn(6, 4)
    table[1], table[2], table[4] = (torch.tensor(v) for v in ([3.0, 0, 0, 0], [0, 3.0, 0, 0], [0, 0, 0, 5.0]))
    known, before = torch.tensor([True, True, False, False]), table.clone()
    place_new(table, known, Ragged.of([[1, 3, 2], [1, 3]]))
    assert table[[0, 1, 2, 4, 5]].equal(before[[0, 1, 2, 4, 5]])  # item 4 stands beside nothing
    assert table[3, 2:].abs().max() == 0
    assert table[3, 0] > table[3, 1] > 0  # twice beside item 1, once beside item 2
    assert table[3].norm().item() == pytest.approx(3 * NEW_LENGTH)


def test_the_length_of_a_new_vector_follows_the_number_of_its_events():
    counts = torch.tensor([1.0, 10.0, 100.0, 30.0])
    vectors = torch.nn.functional.normalize(torch.randn(4, 3), dim=1) * (1 + counts[:, None]) ** 0.5
    vectors[3] *= 7
    lengths = expected_lengths(vectors, counts, torch.tensor([True, True, True, False]))
    assert torch.allclose(lengths, (1 + counts) ** 0.5, rtol=1e-4)


def test_a_training_begins_with_the_weights(old, after, before):
    again = fit(replace(SASREC, stages=(Stage(num_epochs=1, learning_rate=1e-9),)), before, start=WarmStart.of(old))
    for name, tensor in old.network.state_dict().items():
        assert torch.allclose(again.network.state_dict()[name], tensor, atol=1e-5)
    start = WarmStart.of(old)
    warm = fit(warm_recipe(SASREC, start, after), after, start=start)
    assert warm.catalogue.items.ids.tolist() == NEW_ITEMS


def test_a_start_that_training_only_spoils_is_kept(old, before):
    spoiling = replace(SASREC, stages=(Stage(num_epochs=2, learning_rate=5.0),), ema_decay=0.0)
    kept = fit(spoiling, before, start=WarmStart.of(old))
    assert kept.provenance.epochs == (0,)
    assert all(kept.network.state_dict()[name].equal(tensor) for name, tensor in old.network.state_dict().items())


@pytest.mark.parametrize(
    ("epochs", "wanted"), [((), 4), ((2, 10), 3), ((10,), 3), ((2, 0), 1)], ids=["unknown", "all", "warm", "not taken"]
)
def test_the_recipe_is_shorter_and_has_no_pretraining(old, epochs, wanted):
    pretrain = replace(SASREC.stages[0], objective="pretrain")
    recipe = replace(SASREC, system="s3rec", stages=(pretrain, Stage(num_epochs=20)), evaluate_every=3, patience=2)
    start, strangers = replace(WarmStart.of(old), epochs=epochs), make_data(OLD_ITEMS, range(90, 99))
    shorter = warm_recipe(recipe, start, strangers)
    assert [stage.num_epochs for stage in shorter.stages] == [wanted]
    assert shorter.evaluate_every == wanted
    assert warm_recipe(replace(recipe, warmup_steps=200), start, strangers).warmup_steps == 20
    parts = [warm_recipe(replace(recipe, averaged_part=part), start, strangers).averaged_part for part in (9, 2)]
    assert parts == [3, 2]


def test_a_step_takes_half_a_batch_at_twice_the_rate(old, after):
    shorter = warm_recipe(BLEND, WarmStart.of(old), after)
    assert [part.batch_users for part in shorter.parts] == [4, 4]
    assert [stage.learning_rate for stage in shorter.all_stages] == [0.02, 0.02]
    assert warm_recipe(replace(SASREC, batch_users=1), WarmStart.of(old), after).batch_users == 1


def test_a_chain_of_warm_starts_is_of_the_epochs_of_the_recipe(old):
    again = replace(old, provenance=replace(old.provenance, epochs=(1,), started_from="another"))
    assert (WarmStart.of(old).epochs, WarmStart.of(again).epochs) == (old.provenance.epochs, ())


def with_events(data, user, *items):
    """The data after a user (a row) has watched items (ids)."""
    rows = [data.train[n].tolist() for n in range(len(data.train))]
    rows[user - 1] += data.catalogue.items.rows(items)
    return replace(data, train=Ragged.of(rows))


def test_histories_with_events_since_the_start_are_in_every_epoch(before, old):
    start = WarmStart.of(old)
    assert start.chances(before).tolist() == [REPLAY] * len(OLD_USERS)
    assert start.chances(with_events(before, 3, 115)).tolist() == [REPLAY] * 2 + [1.0] + [REPLAY] * 17
    # a log that forgets its oldest day, and items of other rows
    rows, ids = [before.train[n][3:] for n in range(len(before.train))], IdMap.of([99, *OLD_ITEMS])
    shifted = Catalogue(ids, before.catalogue.users, np.zeros(len(ids)))
    later = replace(before, catalogue=shifted, train=Ragged.of([row + 1 for row in rows]))
    assert start.chances(later).tolist() == [REPLAY] * len(OLD_USERS)


def test_users_that_the_start_does_not_know_are_in_every_epoch(after, old):
    chances = WarmStart.of(old).chances(after)
    assert chances[[NEW_USERS.index(user) for user in NEW_USERS if user not in OLD_USERS]].tolist() == [1.0] * 10


def test_a_start_of_an_earlier_version_trains_on_everything(before, old):
    start = WarmStart(old.network, replace(old.catalogue, newest=None))
    assert start.chances(before).tolist() == [1.0] * len(OLD_USERS)
    assert start.digest != WarmStart.of(old).digest


def test_epochs_that_do_less_are_more(before, old):
    start = replace(WarmStart.of(old), epochs=(50,))
    wanted = replace(SASREC, stages=(Stage(num_epochs=50),))
    assert warm_recipe(wanted, start, before).stages[0].num_epochs == 26


def test_an_epoch_has_the_windows_that_are_drawn(before):
    chances = np.zeros(len(OLD_USERS))
    chances[[2, 7]], chances[12] = 1.0, 0.5
    windows, rng = TrainingWindows.of(before, 10).with_chances(chances), np.random.default_rng(0)
    epochs = [[u for batch in windows.batches(2, rng) for u in batch.users.tolist()] for _ in range(20)]
    assert {tuple(sorted(epoch)) for epoch in epochs} == {(3, 8), (3, 8, 13)}
    assert windows.mean_positions(2) == 8 * 2.5 / 2
    nobody = TrainingWindows.of(before, 10).with_chances(np.zeros(len(OLD_USERS)))
    assert sum(len(batch.users) for batch in nobody.batches(8, rng)) == len(OLD_USERS)


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        (FISM, "is sasrec, the recipe trains fism"),
        (replace(SASREC, network=SASREC.network | {"dim": 16}), "has dim 8 instead of 16"),
        (BLEND, "has 0 parts, the recipe has more"),
    ],
)
def test_a_checkpoint_of_another_kind_is_refused(old, after, recipe, sentence):
    with pytest.raises(ValueError, match=sentence):
        fit(recipe, after, start=WarmStart.of(old))


def test_a_blend_starts_part_by_part(before, after):
    start = WarmStart.of(fit(BLEND, before))
    warm = fit(warm_recipe(BLEND, start, after), after, start=start)
    assert len(warm.provenance.epochs) == 2
    assert warm.provenance.started_from == start.digest


# --- refit


def test_a_refit_trains_on_every_event_for_the_chosen_epochs(before):
    chosen, reports = fit(SASREC, before, 2), []
    again = refit(SASREC, before, chosen, on_epoch=reports.append)
    assert chosen.provenance.epochs == (len(reports),)
    assert again.catalogue.counts.sum() == sum(len(part.values) for part in (before.train, before.valid, before.test))
    assert (again.plan, again.provenance.refit, again.provenance.metrics) == (chosen.plan, True, {})
    assert all(report.metric is None for report in reports)
    assert not again.network.items.weight.equal(chosen.network.items.weight)


def test_a_blend_is_refit_with_the_chosen_weights(before, tmp_path):
    chosen = fit(BLEND, before)
    with torch.no_grad():
        chosen.network.weights.copy_(torch.tensor([1.0, 3.0]))
    chosen.save(tmp_path / "chosen")
    # as a command has it: from a folder
    again = refit(BLEND, before, Checkpoint.load(tmp_path / "chosen"))
    assert again.network.weights.tolist() == [1.0, 3.0]


def test_a_refit_of_other_networks_is_refused_before_it_is_trained(before):
    chosen, epochs = fit(BLEND, before), []
    wider = replace(BLEND, parts=(replace(SASREC, network={**SASREC.network, "num_layers": 3}), FISM))
    with pytest.raises(ValueError, match=r"num_layers \d instead of 3"):
        refit(wider, before, chosen, on_epoch=epochs.append)
    assert not epochs


def test_all_events_are_in_the_order_of_their_user(before):
    merged = before.all_in_train()
    assert merged.train[3].tolist() == [*before.history(4, "test"), *before.targets(4, "test")]
    assert (len(merged.valid), len(merged.valid.values), len(merged.test.values)) == (len(OLD_USERS), 0, 0)


def test_stages_that_were_not_taken_are_left_out():
    recipe = replace(BLEND, parts=(replace(SASREC, stages=(Stage(num_epochs=9), Stage(num_epochs=9))), FISM))
    parts = with_chosen_epochs(recipe, (4, 0, 7)).parts
    assert [[stage.num_epochs for stage in part.stages] for part in parts] == [[4], [7]]


def test_a_refit_that_would_not_be_what_was_chosen_is_refused(before, after, old):
    earlier = Provenance(before.digest, "circles", "tiny", 0, "test")
    blank = Checkpoint(old.network, ServingPlan(), old.catalogue, earlier)
    cases = [
        (after, old, None, "was chosen on other data"),
        (before, blank, None, "does not say its epochs, it is of an earlier version"),
        (before, old, WarmStart.of(old), "was chosen with another --start-from"),
        (before, replace(old, provenance=replace(old.provenance, refit=True)), None, "is a refit itself"),
        (before, replace(old, provenance=replace(old.provenance, epochs=(1, 2))), None, "has 2 stages, the recipe 1"),
    ]
    for data, chosen, start, sentence in cases:
        with pytest.raises(ValueError, match=sentence):
            refit(SASREC, data, chosen, start=start)
