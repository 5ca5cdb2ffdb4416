"""The judgement on a canary: each bound ends a trial, and nothing else does."""

import pytest

from service.canary.evidence import MIN_FAILED, MIN_LATENCIES, MIN_OVERLAPS, Evidence
from service.engine.releases import CanaryTerms

TERMS = CanaryTerms(0.1, max_errors=0.02, max_slowdown=2.0, min_overlap=0.1)


def evidence(good=200, failed=0, latency_ms=10.0, usual_failed=0, usual_ms=10.0, raised=0):
    seen = Evidence("canary", num_raised=raised)
    for side, counts, milliseconds in (
        (seen.canary, (good, failed), latency_ms),
        (seen.in_force, (400, usual_failed), usual_ms),
    ):
        for is_good, count in zip((True, False), counts, strict=True):
            for _ in range(count):
                side.add(is_good, milliseconds)
    return seen


@pytest.mark.parametrize(
    "within",
    [
        {},
        {"good": 0},
        {"failed": 4},  # 2 % of its answers
        {"good": 0, "failed": MIN_FAILED - 1},
        {"failed": 40, "usual_failed": 80},  # both are in the same trouble
        {"latency_ms": 24.0},
        {"latency_ms": 5.0, "usual_ms": 0.5},  # within the slack
        {"latency_ms": 99.0, "good": MIN_LATENCIES[50] - 1},
    ],
)
def test_a_canary_within_its_bounds_stays(within):
    assert evidence(**within).verdict(TERMS) is None


@pytest.mark.parametrize(
    ("beyond", "reason"),
    [
        ({"good": 0, "failed": MIN_FAILED}, "3 of its 3 answers failed, 0.0% of those in force"),
        ({"failed": 6}, "6 of its 206 answers failed"),
        ({"raised": 6}, "6 of its 206 answers failed"),
        ({"failed": 60, "usual_failed": 40}, "60 of its 260 answers failed, 9.1% of those in force"),
        ({"latency_ms": 26.0}, "its answers take 26 ms (p50), those in force 10 ms"),
    ],
)
def test_a_canary_beyond_a_bound_is_out(beyond, reason):
    assert evidence(**beyond).verdict(TERMS).startswith(reason)


@pytest.mark.parametrize(("good", "is_found"), [(200, True), (150, False)])
def test_a_slow_tail_is_found_once_it_is_one(good, is_found):
    seen = evidence(good=good)
    for _ in range(20):
        seen.canary.add(True, 500.0)
    verdict = seen.verdict(TERMS)
    assert ("(p95)" in verdict) if is_found else verdict is None


@pytest.mark.parametrize(
    ("share", "count", "is_out"), [(0.05, MIN_OVERLAPS, True), (0.05, MIN_OVERLAPS - 1, False), (0.2, 50, False)]
)
def test_lists_that_have_little_in_common_are_found(share, count, is_out):
    seen = evidence()
    for _ in range(count):
        seen.add_overlap(share)
    assert (seen.verdict(TERMS) is not None) is is_out


def test_what_happened_long_ago_is_forgotten():
    seen = evidence(latency_ms=100.0)
    for _ in range(600):
        seen.canary.add(True, 10.0)
    assert seen.verdict(TERMS) is None
