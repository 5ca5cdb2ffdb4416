"""Exact search by the kernels, in Triton's interpreter where there is no card, against that of the processor."""

import numpy as np
import pytest
import torch

from index.base import Exclusions
from index.exact import ExactIndex
from model.kernels import available

pytest.importorskip("triton", reason="Triton is not installed: pip install 'recgpt-recall[kernels]'")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if not available(DEVICE):
    pytest.skip("no card, and Triton's interpreter is off", allow_module_level=True)

from index.exact_device import columns_of, search_on_device  # noqa: E402


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.9])
def test_lists_are_those_of_the_processor(whole, share):
    draws = np.random.default_rng(0)
    vectors, queries = (
        (draws.integers(-2, 3, (rows, 5)) if whole else draws.normal(size=(rows, 5))).astype(np.float32)
        for rows in (150, 6)
    )
    out = draws.random((6, 150)) < share
    out[1] |= bool(share)
    excluded = Exclusions(*(part + shift for part, shift in zip(out.nonzero(), (0, 1), strict=True))) if share else None
    table = ExactIndex(torch.from_numpy(vectors).to(DEVICE), DEVICE).table
    rows, scores = search_on_device(table, queries, 20, excluded)
    hits = ExactIndex(vectors).search(queries, 20, excluded)
    np.testing.assert_array_equal(rows, hits.rows)
    np.testing.assert_allclose(scores, hits.scores, rtol=1e-5, atol=1e-5)


def test_pairs_become_columns():
    columns = columns_of(Exclusions(np.array([0, 0, 0, 2]), np.array([5, 6, 7, 8])), 3, torch.device("cpu"))
    assert columns.given.tolist() == [[3, 5, 6, 7, 0], [0] * 5, [1, 8, 0, 0, 0]]
    assert columns_of(Exclusions(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)), 3, "cpu") is None
