"""Team draft: fair, in order, without repetition, full, and the same again from the same seed."""

from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from service.experiments.team_draft import draft, seed_of

LISTS = st.lists(st.integers(0, 60), unique=True, max_size=40)
SEEDS = st.integers(0, 2**64 - 1)


def items_of(lists, drafted):
    return [lists[team][place] for team, place in zip(*drafted, strict=True)]


@given(LISTS, LISTS, st.integers(0, 50), SEEDS)
def test_list_is_full_and_has_nothing_twice(first, second, limit, seed):
    items = items_of((first, second), draft((first, second), limit, seed))
    assert len(items) == len(set(items)) == min(limit, len({*first, *second}))


@given(LISTS, LISTS, st.integers(0, 50), SEEDS)
def test_order_of_each_list_is_kept(first, second, limit, seed):
    teams, places = draft((first, second), limit, seed)
    for team in (0, 1):
        own = [place for of, place in zip(teams, places, strict=True) if of == team]
        assert own == sorted(own)


@given(LISTS, LISTS, st.integers(0, 50), SEEDS)
def test_each_item_is_the_best_of_its_team_that_was_left(first, second, limit, seed):
    lists, taken = (first, second), set()
    for team, place in zip(*draft(lists, limit, seed), strict=True):
        assert set(lists[team][:place]) <= taken
        taken.add(lists[team][place])


@given(st.integers(1, 40), st.integers(1, 80), SEEDS, st.data())
def test_counts_differ_by_one_at_most_at_every_position(size, limit, seed, data):
    """While neither list has ended: of two lists of the same items that is so to the end."""
    first = data.draw(st.permutations(range(size)))
    second = data.draw(st.permutations(range(size)))
    teams, _ = draft((first, second), min(limit, size), seed)
    for length in range(1, len(teams) + 1):
        assert abs(2 * sum(teams[:length]) - length) <= 1


@given(LISTS, LISTS, SEEDS)
def test_same_seed_is_the_same_list(first, second, seed):
    assert draft((first, second), 20, seed) == draft((first, second), 20, seed)


@given(LISTS, SEEDS)
def test_where_one_list_ends_the_other_goes_on(only, seed):
    assert draft(([], only), 50, seed) == ((1,) * len(only), tuple(range(len(only))))


def test_each_team_begins_half_of_the_lists():
    lists = [1, 2, 3], [4, 5, 6]
    begun = sum(draft(lists, 3, seed_of("exp", "0", f"user-{n}", "r")).teams[0] for n in range(10_000))
    assert binomtest(begun, 10_000).pvalue > 1e-4


def test_seed_is_of_user_and_request_and_of_nothing_in_between():
    # a fixed number: any later version has to draft a logged list again
    assert seed_of("exp", "0", "u", "r1") == 14079274862398181877
    assert len({seed_of("exp", "0", user, request) for user in ("u", "v") for request in ("r1", "r2")}) == 4
    assert seed_of("a", "bc") != seed_of("ab", "c")
    assert isinstance(seed_of("\ud800"), int)  # an id that no text encoding has
