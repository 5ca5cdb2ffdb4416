"""Logs with faults of many kinds: read, or refused in a sentence. 100,000 of them: python -m benchmarks.fuzz_logs."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.fuzz_logs import outcome
from benchmarks.fuzzed_logs import draw_log


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(st.randoms(use_true_random=False))
def test_a_log_is_read_or_refused_in_a_sentence(tmp_path, rng):
    assert outcome(tmp_path, draw_log(rng)) in ("prepared", "read", "refused")
