"""Metrics of several processes as those of one: counts added, shares averaged, whoever has which."""

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from service.telemetry.collectors import AVERAGED, add_up


def text_of(**values):
    """The text of one process: counters, or gauges where the name is averaged."""
    registry = CollectorRegistry()
    for name, value in values.items():
        if name in AVERAGED:
            Gauge(name, "a share", ["arm"], registry=registry).labels("a").set(value)
        else:
            Counter(name, "a count", ["arm"], registry=registry).labels("a").inc(value)
    return generate_latest(registry).decode()


def samples(text):
    families = text_string_to_metric_families(text.decode())
    return {sample.name: sample.value for family in families for sample in family.samples}


def test_counts_add_up():
    assert samples(add_up([text_of(recall_served=2), text_of(recall_served=3)]))["recall_served_total"] == 5


@pytest.mark.parametrize("name", sorted(AVERAGED))
def test_shares_and_waits_are_averaged(name):
    assert samples(add_up([text_of(**{name: 0.2}), text_of(**{name: 0.6})]))[name] == pytest.approx(0.4)


def test_a_process_without_a_metric_changes_nothing_of_it():
    texts = [text_of(recall_served=2), text_of(recall_dropped=1), text_of(recall_coverage=0.5)]
    assert samples(add_up(texts)) == {"recall_served_total": 2, "recall_dropped_total": 1, "recall_coverage": 0.5}


def test_histograms_of_several_processes_are_one():
    texts = []
    for value in (0.5, 1.5):
        registry = CollectorRegistry()
        Histogram("recall_stage_seconds", "time", buckets=(1, 2), registry=registry).observe(value)
        texts.append(generate_latest(registry).decode())
    families = [*text_string_to_metric_families(add_up(texts).decode())]
    buckets = {s.labels["le"]: s.value for s in families[0].samples if s.name.endswith("_bucket")}
    assert buckets == {"1.0": 1, "2.0": 2, "+Inf": 2}
    assert samples(add_up(texts))["recall_stage_seconds_sum"] == 2


def test_when_a_process_began_is_nobodys_business():
    assert b"_created" not in add_up([text_of(recall_served=2)])


def test_one_process_is_itself():
    own = text_of(recall_served=2, recall_coverage=0.5)
    assert samples(add_up([own])) == {"recall_served_total": 2, "recall_coverage": 0.5}
