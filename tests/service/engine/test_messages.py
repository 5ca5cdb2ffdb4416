"""The pairs that queries may not find, as an index is told them; results without some of their items."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from model.merging import Merged
from model.records import History
from service.engine.messages import EngineRequest, EngineResult, exclusions
from service.lists.reasons import Reasons
from service.stores.vector_codec import CachedVectors

ROWS = st.frozensets(st.integers(1, 20), max_size=8)


@given(st.lists(ROWS, min_size=1, max_size=4), st.integers(1, 3), ROWS, st.integers(1, 20))
def test_each_query_vector_excludes_its_requests_rows_and_the_dead(excluded, num_queries, dead, num_rows):
    requests = [EngineRequest(History(()), 5, own) for own in excluded]
    told_pairs = exclusions(requests, num_queries, num_rows, tuple(dead))
    pairs = set(zip(told_pairs.queries.tolist(), told_pairs.rows.tolist(), strict=True))
    assert pairs == {
        (number * num_queries + query, row)
        for number, own in enumerate(excluded)
        for query in range(num_queries)
        for row in own | dead
        if row <= num_rows
    }
    assert len(pairs) == len(told_pairs.rows)
    assert told_pairs.queries.tolist() == sorted(told_pairs.queries.tolist())


def test_some_items_of_a_list_keep_their_reasons():
    merged = Merged(np.array([5, 6, 7]), np.array([3, 2, 1], dtype=np.float32), np.array([0, 1, 0]))
    reasons = Reasons(np.array([[1], [2], [3]]), np.ones((3, 1), dtype=np.float32), np.array([[1], [2], [3]]))
    vectors = CachedVectors(np.ones((1, 2), dtype=np.float32), np.zeros(0, dtype=np.int64))
    kept = EngineResult(vectors, merged, {}, reasons=reasons).only(np.array([True, False, True]))
    assert kept.merged.rows.tolist() == [5, 7]
    assert kept.merged.sources.tolist() == [0, 0]
    assert kept.reasons.similar.tolist() == [[1], [3]]


def test_a_result_told_of_its_queue_keeps_the_times_of_its_batch():
    vectors = CachedVectors(np.ones((1, 2), dtype=np.float32), np.zeros(0, dtype=np.int64))
    shared = {"encode": 2.0}
    told = EngineResult(vectors, Merged(*[np.zeros(0)] * 3), shared).told(1.5, known=True)
    assert told.timings_ms == {"encode": 2.0, "queue": 1.5}
    assert shared == {"encode": 2.0}
    assert told.known


def test_a_request_without_a_known_item_is_cold():
    assert EngineRequest(History(()), 5).is_cold
    assert not EngineRequest(History((3,)), 5).is_cold
