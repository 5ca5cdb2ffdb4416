"""The growth of a service's histograms between two readings."""

import pytest

from recall.bench.stages import Stages


def scraped(**values):
    """Samples of the service's histograms: sum_encode=2.0, count_encode=4, le_8=3."""
    names = {"sum": "recall_stage_seconds_sum", "count": "recall_stage_seconds_count", "le": "recall_batch_size_bucket"}
    samples = {}
    for key, value in values.items():
        kind, label = key.split("_")
        name = "le" if kind == "le" else "stage"
        samples[names[kind], ((name, label.replace("inf", "+Inf")),)] = float(value)
    return samples


def test_stages_are_what_was_gained():
    before = scraped(sum_encode=1.0, count_encode=10)
    after = scraped(sum_encode=3.0, count_encode=14, sum_search=0.5, count_search=2)
    stages = Stages.between(before, after)
    assert stages.seconds("encode") == 2
    assert stages.seconds("encode", "search", "merge") == 2.5
    assert stages.means_ms == {"encode": pytest.approx(500), "search": pytest.approx(250)}


def test_a_stage_that_did_nothing_has_no_mean():
    same = scraped(sum_encode=1.0, count_encode=10)
    assert Stages.between(same, same).means_ms == {}


def test_buckets_that_add_up_are_told_apart():
    before, after = scraped(le_1=5, le_8=5, le_inf=6), scraped(le_1=7, le_8=10, le_inf=11)
    assert Stages.between(before, after).batch_sizes == {"1": 2, "8": 3}


def test_a_service_without_metrics_has_no_stages():
    stages = Stages.between({}, {})
    assert (stages.seconds("encode"), stages.means_ms, stages.batch_sizes) == (0.0, {}, {})


def test_samples_of_several_processes_are_added_up():
    after = {
        ("recall_stage_seconds_sum", (("arm", arm), ("stage", "encode"))): value for arm, value in (("a", 1), ("b", 2))
    }
    assert Stages.between({}, after).seconds("encode") == 3
