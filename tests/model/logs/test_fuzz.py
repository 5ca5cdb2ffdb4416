"""Logs with faults of many kinds: read, or refused in a sentence. 100,000 of them: python -m benchmarks.fuzz_logs."""

from hypothesis import HealthCheck, given, settings

from benchmarks.fuzz_logs import LOGS, SHAPES, outcome


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(LOGS, SHAPES)
def test_a_log_is_read_or_refused_in_a_sentence(tmp_path, log, shape):
    assert outcome(tmp_path, log, shape) in ("read", "refused")
