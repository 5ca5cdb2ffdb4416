"""Metrics of computations are those of the releases that serve when somebody asks."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np

from index.watched import Mean
from model.catalogue import Catalogue, IdMap
from model.records import ServingPlan
from service.engine.arms import ArmSlot, Release
from service.engine.collector import EngineCollector
from service.engine.compute import ComputeCounters


@dataclass
class Encoder:
    num_tokens: int = 0
    num_padding: int = 0
    num_eager: Counter = field(default_factory=Counter)


def release(counters, bundle="b1"):
    catalogue = Catalogue(IdMap.of([1]), IdMap.of([1]), np.ones(1, dtype=np.int64))
    return Release("recgpt", "recgpt", bundle, catalogue, ServingPlan(), "p", 5, None, counters=counters)


def samples(slot):
    families = EngineCollector({"recgpt": slot}).collect()
    return {(s.name, *sorted(s.labels.values())): s.value for family in families for s in family.samples}


def test_what_an_arm_counts_is_told():
    recall = Mean()
    recall.add(0.75)
    counters = ComputeCounters(Encoder(10, 4, Counter(long=2)), recall, Counter(filtered=3))
    assert samples(ArmSlot(release(counters))) == {
        ("recall_tokens_total", "item", "recgpt"): 10,
        ("recall_tokens_total", "padding", "recgpt"): 4,
        ("recall_eager_passes_total", "long", "recgpt"): 2,
        ("recall_index_recall", "recgpt"): 0.75,
        ("recall_graph_refused_total", "filtered", "recgpt"): 3,
    }


def test_an_arm_that_counts_nothing_here_tells_nothing():
    assert samples(ArmSlot(release(ComputeCounters()))) == {}


def test_an_index_that_was_never_compared_has_no_recall():
    assert samples(ArmSlot(release(ComputeCounters(index_recall=Mean())))) == {}


def test_after_a_reload_the_new_release_tells():
    slot = ArmSlot(release(ComputeCounters(Encoder(num_tokens=10))))
    slot.put(release(ComputeCounters(Encoder(num_tokens=1)), "b2"))
    assert samples(slot)["recall_tokens_total", "item", "recgpt"] == 1
