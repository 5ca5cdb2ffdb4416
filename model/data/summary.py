"""Sentences about a prepared log: what counts, what can never be listed, and what no system can know."""

from collections.abc import Iterator

import numpy as np

from model.data.sequences import SPLITS, SequenceData


def describe(num_events: int, num_positives: int, data: SequenceData) -> Iterator[str]:
    """The positives left, items without a training event, and targets that no list can hold."""
    if num_positives < num_events:
        yield f"positives: {num_positives:,} of {num_events:,} events"
    untrained = np.flatnonzero(data.catalogue.counts == 0) + 1
    if len(untrained):
        targets = sum(int(np.isin(part.values, untrained).sum()) for part in (data.valid, data.test))
        yield (
            f"items without a training event: {len(untrained):,} of {len(data.catalogue.items):,}; no system can learn "
            f"them, and {targets:,} targets are such"
        )
    for split in SPLITS:
        if seen := data.num_seen(split):
            outcome = "count as misses" if data.seen_targets else "are left out of the measure"
            yield f"{split}: {seen:,} targets stand in their user's history already, are never listed, and {outcome}"
