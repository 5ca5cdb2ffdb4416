"""Items that came after a bundle: their vectors, their places among the others, the channel that is kept for them."""

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import numpy as np
import pytest

from index.bundle.bundle import open_bundle
from model.attributes.filters import canonical
from model.records import History
from model.rules import Cap, ListRules
from service.catalogue.changes import DeleteItem, PutItem
from service.catalogue.slot_vectors import References, SlotVectors
from service.catalogue.state import LiveState
from service.engine.loading import EngineParts, load_arm, references_of
from service.engine.messages import EngineRequest

HISTORY = History((3, 40, 77))
NEW = 900_000


@pytest.fixture
def state():
    return LiveState()


@pytest.fixture
def loaded(bundles, state):
    return load_arm("recgpt", bundles["recgpt"], "cpu", EngineParts(state=state))


def put(state, *changes):
    state.advance(enumerate(changes, start=state.current.number + 1))


def ask(loaded, limit=20, **more):
    [result] = loaded.compute.run([EngineRequest(HISTORY, limit, HISTORY.items, **more)])
    return result


def ids(loaded, result):
    return loaded.release.items.snapshot.column(result.merged.rows).tolist()


def query(loaded):
    return ask(loaded, 0).vectors.vectors


def test_without_changes_a_list_is_that_of_the_bundle_alone(loaded, bundles):
    alone = load_arm("recgpt", bundles["recgpt"], "cpu")
    for ours, theirs in zip(ask(loaded).merged, ask(alone).merged, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_new_item_stands_where_its_score_puts_it(loaded, state):
    vector = query(loaded)[0]
    put(state, PutItem(NEW, None, {"recgpt": (5 * vector).tolist()}))
    result = ask(loaded)
    assert ids(loaded, result)[0] == NEW
    assert result.merged.scores[0] == pytest.approx(5 * float(vector @ vector), rel=1e-5)
    assert result.catalogue == 1
    put(state, DeleteItem(NEW))
    assert NEW not in ids(loaded, ask(loaded))


def test_a_deleted_item_of_the_bundle_is_replaced_by_the_next(loaded, state):
    before = ids(loaded, ask(loaded, 21))
    put(state, DeleteItem(before[0]))
    assert ids(loaded, ask(loaded, 20))[:6] == before[1:7]


def test_an_item_of_the_bundle_that_is_put_keeps_its_trained_vector(loaded, state):
    before = ask(loaded)
    put(state, PutItem(ids(loaded, before)[0], {"author": 1}))
    after = ask(loaded)
    assert ids(loaded, after) == ids(loaded, before)
    np.testing.assert_allclose(after.merged.scores, before.merged.scores, rtol=1e-5)


def test_a_vector_follows_its_watchers(loaded, state):
    put(state, PutItem(NEW))
    slots, release = loaded.release.slots, loaded.release
    [first] = slots.of(state.current)
    queries = query(loaded)
    for _ in range(20):
        slots.learn(0, queries)
    [taught] = slots.of(state.current)
    assert (queries @ taught > queries @ first).all()
    release.items.refresh()
    np.testing.assert_array_equal(release.items.snapshot.table.vectors[0], taught)


def test_attributes_bring_a_new_item_near_those_that_share_them(loaded, tiny):
    vectors = loaded.compute.served.exact.vectors.copy()
    author = np.arange(len(vectors)) // 10 == 7
    vectors[author] += 20 * vectors[70]
    exact = type(loaded.compute.served.exact)(vectors)
    queries = np.random.default_rng(0).normal(size=(40, vectors.shape[1])).astype(np.float32)
    slots, state = SlotVectors("recgpt", tiny.catalogue, exact, References(lambda: queries)), LiveState()
    put(state, PutItem(NEW, {"author": 7_007}), PutItem(NEW + 1, {"author": 7_008}), PutItem(NEW + 2))
    own = slots.of(state.current)
    likeness = own @ vectors[author].mean(0) / np.linalg.norm(own, axis=1)
    assert likeness[0] > max(likeness[1], likeness[2])


class Gathered:
    """The vectors of an index; keeps how many were asked for at once, and lets each call wait for `meet`."""

    def __init__(self, exact, meet=lambda: None):
        self.exact, self.meet, self.sizes = exact, meet, []

    @property
    def dim(self):
        return self.exact.dim

    def gather(self, rows):
        self.sizes.append(len(rows))
        self.meet()
        return self.exact.gather(rows)


def slots_over(table, loaded, tiny):
    return SlotVectors("recgpt", tiny.catalogue, table, References(lambda: query(loaded)))


def test_two_threads_that_ask_at_once_keep_each_vector_with_its_slot(loaded, tiny, known, state):
    def given(number):
        return {"recgpt": [float(number)] * loaded.release.dim}

    put(state, PutItem(known[5]), PutItem(NEW, None, given(1)), PutItem(NEW + 1, None, given(2)))
    exact, both = loaded.compute.served.exact, Barrier(2)
    slots = slots_over(Gathered(exact, lambda: both.wait(20)), loaded, tiny)
    with ThreadPoolExecutor(2) as threads:
        first, second = threads.map(slots.of, [state.current] * 2)
    np.testing.assert_array_equal(first, second)
    put(state, PutItem(NEW + 2, None, given(3)))
    np.testing.assert_array_equal(slots.of(state.current), slots_over(exact, loaded, tiny).of(state.current))


def test_vectors_that_were_kept_are_those_that_are_computed_anew(loaded, tiny, known, state):
    exact, queries = loaded.compute.served.exact, query(loaded)
    slots = slots_over(exact, loaded, tiny)
    steps = [
        [PutItem(NEW, {"author": 7_007}), PutItem(NEW + 1), PutItem(known[5])],
        [DeleteItem(NEW), PutItem(NEW + 2)],
        [PutItem(NEW + 1, {"author": 7_008}), PutItem(NEW)],
        [DeleteItem(known[5])],
    ]
    for taught, changes in enumerate(steps):
        put(state, *changes)
        slots.of(state.current)
        slots.learn(taught, queries)
        anew = slots_over(exact, loaded, tiny)
        for number in range(taught + 1):
            anew.learn(number, queries)
        alive = [*state.current.current.values()]
        np.testing.assert_array_equal(slots.of(state.current)[alive], anew.of(state.current)[alive])


def test_an_item_with_a_trained_vector_costs_no_look_at_the_others(loaded, tiny, known, state):
    put(state, PutItem(known[5], {"author": 7_007}))
    table = Gathered(loaded.compute.served.exact)
    slots_over(table, loaded, tiny).of(state.current)
    assert table.sizes == [1]


def test_how_often_an_item_is_expected_to_be_watched_changes_its_vector(loaded, state):
    put(state, PutItem(NEW, expected_watches=0), PutItem(NEW + 1, expected_watches=10_000))
    rare, often = loaded.release.slots.of(state.current)
    assert not np.allclose(rare, often)


def test_the_reference_queries_are_those_of_histories_in_training(loaded, tiny):
    catalogue = loaded.release.catalogue
    sample = tiny.sampled_catalogue.sample
    np.testing.assert_array_equal(catalogue.sample.values, sample.values)
    histories = [History(tuple(sample[number].tolist())) for number in range(len(sample))]
    bundle = open_bundle(loaded.release.folder)
    references = references_of(bundle, catalogue, loaded.compute.encoder)
    assert references.are_real
    expected = loaded.compute.encoder.encode(histories).vectors
    np.testing.assert_array_equal(references.ask(), expected.reshape(-1, expected.shape[2]))
    without = references_of(bundle, tiny.catalogue, loaded.compute.encoder)
    assert not without.are_real
    np.testing.assert_array_equal(without.ask(), bundle.golden.flat_vectors)


def test_watchers_move_nothing_where_it_is_unknown_how_they_differ_from_others(loaded, tiny, state):
    put(state, PutItem(NEW))
    references = References(lambda: query(loaded), are_real=False)
    slots = SlotVectors("recgpt", tiny.catalogue, loaded.compute.served.exact, references)
    before = slots.of(state.current)
    slots.learn(0, query(loaded))
    np.testing.assert_array_equal(slots.of(state.current), before)


@pytest.mark.parametrize("limit", [20, 7])
def test_the_channel_keeps_its_share_and_is_labelled(bundles, state, limit):
    loaded = load_arm("recgpt", bundles["recgpt"], "cpu", EngineParts(state=state, fresh_share=0.2))
    plain = ids(loaded, ask(loaded, limit))
    far = (-5 * query(loaded)[0]).tolist()
    puts = [PutItem(NEW + n, {"author": n % 2, "language": "en"}, {"recgpt": far}) for n in range(9)]
    put(state, *puts)
    result = ask(loaded, limit)
    want = int(0.2 * limit)
    assert ids(loaded, result)[: limit - want] == plain[: limit - want]
    assert all(item >= NEW for item in ids(loaded, result)[limit - want :])
    assert [loaded.release.source_name(source) for source in result.merged.sources[-want:]] == ["fresh"] * want
    assert len(result.merged.rows) == limit
    german = ask(loaded, limit, rules=ListRules(canonical({"language": "de"})))
    assert not [item for item in ids(loaded, german) if item >= NEW]
    capped = ask(loaded, 20, rules=ListRules(caps=(Cap("author", 1),)))
    assert len([item for item in ids(loaded, capped) if item >= NEW]) == 2
