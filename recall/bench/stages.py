"""The service's own histograms, read from GET /metrics before and after a trial."""

from collections.abc import Mapping
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

from recall.bench.target import Target
from recall.calling import Trust


@dataclass(frozen=True, slots=True)
class Stages:
    """The growth of the service's own histograms during a trial."""

    sums: Mapping[str, float]  # stage -> seconds
    counts: Mapping[str, float]
    batch_sizes: Mapping[str, int]

    @classmethod
    def between(cls, before: "Scraped", after: "Scraped") -> "Stages":
        def gained(name: str, label: str) -> dict[str, float]:
            gains: dict[str, float] = {}
            for key, value in after.items():
                if key[0] == name:
                    labels = dict(key[1])
                    gains[labels[label]] = gains.get(labels[label], 0.0) + value - before.get(key, 0.0)
            return gains

        # Prometheus counts a batch in every bucket that is large enough: the difference to the next smaller is its own
        cumulative = sorted(gained("recall_batch_size_bucket", "le").items(), key=lambda pair: float(pair[0]))
        sizes, below = {}, 0.0
        for bound, count in cumulative:
            sizes[bound], below = round(count - below), count
        return cls(
            gained("recall_stage_seconds_sum", "stage"),
            gained("recall_stage_seconds_count", "stage"),
            {bound: count for bound, count in sizes.items() if count},
        )

    def seconds(self, *stages: str) -> float:
        return sum(self.sums.get(stage, 0.0) for stage in stages)

    @property
    def means_ms(self) -> dict[str, float]:
        return {stage: 1e3 * self.sums[stage] / count for stage, count in self.counts.items() if count}


Scraped = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(target: Target) -> Scraped:
    """Every sample of GET /metrics; none from a service that has no such route."""
    verify = Trust(target.ca).context() if target.is_tls else True
    reply = httpx.get(f"{target.url}/metrics", timeout=10, verify=verify)
    text = reply.text if reply.status_code == 200 else ""
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples}
