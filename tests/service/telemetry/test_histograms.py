"""Our histograms say what prometheus_client's own say of the same values."""

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from service.telemetry.histograms import Histograms

BOUNDS = (0.5, 1.0, 2.5, 40.0)


def lines(registry):
    text = generate_latest(registry).decode().splitlines()
    return sorted(line for line in text if "_created" not in line)


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from([*BOUNDS, 0.0, 0.3, 1.75, 100.0]))))
def test_the_text_is_prometheus_clients(observations):
    theirs, ours = CollectorRegistry(), CollectorRegistry()
    known = Histogram("sizes", "Of batches", ["arm"], buckets=BOUNDS, registry=theirs)
    own = Histograms("sizes", "Of batches", ["arm"], BOUNDS)
    ours.register(own)
    for arm, value in observations:
        known.labels(arm).observe(value)
        own.labels(arm).observe(value)
    assert lines(ours) == lines(theirs)
