"""Maximal marginal relevance by bounds takes what its definition takes: the code in NumPy, and the loop in C."""

import numpy as np
import pytest

from service.lists.diversity import Novelty

N, D = 400, 12
pytestmark = pytest.mark.usefixtures("code")


@pytest.fixture(scope="module")
def table():
    """Unit-free vectors in clusters, so that likenesses differ much."""
    rng = np.random.default_rng(3)
    centres = rng.normal(size=(9, D))
    return (centres[rng.integers(9, size=N)] + 0.4 * rng.normal(size=(N, D))).astype(np.float32)


def definition(table, rows, scores, share, limit, before, may_be_taken):
    """All hits against all items taken, one step after the other, in double precision."""
    unit = table.astype(np.float64) / np.linalg.norm(table, axis=1, keepdims=True)
    relevance = (scores - scores.min()) / float(np.ptp(scores))
    taken, passed_over, against = [], [], list(before)
    while len(taken) < limit and len(taken) + len(passed_over) < len(rows):
        nearest = np.maximum((unit[rows - 1] @ unit[np.array(against) - 1].T).max(1), 0) if against else 0
        values = (1 - share) * relevance - share * nearest
        values[taken + passed_over] = -np.inf
        best = int(np.argmax(values))
        (taken if may_be_taken(best) else passed_over).append(best)
        against = [*before, *rows[taken].tolist()]
    return taken


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 1.0])
@pytest.mark.parametrize("num_hits", [1, 20, 90, 300])
@pytest.mark.parametrize("before", [(), (7, 8, 350)])
def test_it_takes_what_the_definition_takes(table, share, num_hits, before):
    rng = np.random.default_rng(num_hits)
    for limit in (1, 15, 60):
        rows = rng.choice(N, num_hits, replace=False) + 1
        scores = -np.sort(-rng.gumbel(size=num_hits).astype(np.float32))
        if num_hits == 1:
            scores = np.array([1.0], dtype=np.float32)
            assert Novelty(rows, scores, share, lambda own: table[own - 1]).choose(limit, before) == [0]
            continue
        novelty = Novelty(rows, scores, share, lambda own: table[own - 1])
        expected = definition(table, rows, scores, share, limit, before, lambda n: True)
        assert novelty.choose(limit, before) == expected


@pytest.mark.parametrize("share", [0.2, 0.7])
def test_what_may_not_be_taken_is_passed_over_and_makes_nothing_less_worth(table, share):
    rng = np.random.default_rng(5)
    rows = rng.choice(N, 300) + 1  # with repeats
    scores = rng.normal(size=300).astype(np.float32)  # in no order, as the last phase of a plan with quotas has them
    expected = definition(table, rows, scores, share, 50, (), lambda n: rows[n] % 3 > 0)
    novelty = Novelty(rows, scores, share, lambda own: table[own - 1])
    assert novelty.choose(50, (), lambda n: bool(rows[n] % 3)) == expected


def test_where_few_may_be_taken_all_of_them_are(table):
    rows, scores = np.arange(1, 301), -np.arange(300, dtype=np.float32)
    allowed = {3, 140, 299}
    novelty = Novelty(rows, scores, 0.1, lambda own: table[own - 1])
    assert {*novelty.choose(20, (), allowed.__contains__)} == allowed


def test_hits_of_one_score_are_ordered_by_novelty(table):
    rows = np.arange(1, 60)
    chosen = Novelty(rows, np.ones(59, dtype=np.float32), 0.5, lambda own: table[own - 1]).choose(2, ())
    unit = table / np.linalg.norm(table, axis=1, keepdims=True)
    assert chosen[0] == 0
    assert chosen[1] == int(np.argmin(np.maximum(unit[rows - 1] @ unit[0], 0)))


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.9, 1.0])
def test_both_codes_take_the_same(table, share):
    rng = np.random.default_rng(8)
    rows, scores = rng.choice(N, 300, replace=False) + 1, rng.gumbel(size=300).astype(np.float32)
    novelty = Novelty(rows, scores, share, lambda own: table[own - 1])
    assert novelty.choose(100, (4,)) == novelty._choose_in_numpy(100, (4,))


def test_an_error_of_the_caller_is_passed_on(table):
    def take(place):
        raise LookupError(place)

    novelty = Novelty(np.arange(1, 60), np.ones(59, dtype=np.float32), 0.5, lambda own: table[own - 1])
    with pytest.raises(LookupError):
        novelty.choose(2, (), take)
