"""The setting that the parts of benchmarks/gpu.py run in, and two clocks."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from recall.bench.bundles import Sizes

LARGE = Sizes(num_items=100_000, dim=128, num_layers=4, num_heads=4)
SMALL = Sizes(num_items=400, dim=16, num_layers=1, max_length=6)
Line = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    device: str
    small: bool
    bound: Line  # of the roofline part; empty before it

    @property
    def queries(self) -> int:
        return 4 if self.small else 256

    @property
    def batches(self) -> tuple[int, ...]:
        """Sizes that are captured, the largest first: few where Triton's interpreter stands in for a card."""
        return (2, 1) if self.small else (256, 128, 64, 32, 8, 1)

    def runs(self, count: int) -> int:
        return 1 if self.small else count

    def share(self, us: float, num_bytes: float, operations: float, kind: str) -> Line:
        """The larger of two bounds, in us, and its share of the time taken."""
        least = max(
            num_bytes / self.bound.get("bytes_s", float("inf")),
            operations / self.bound.get(f"{kind}_ops_s", float("inf")),
        )
        return {"us": round(us, 1), "bound_us": round(1e6 * least, 1), "share": round(1e6 * least / us, 3)}


def sizes_of(setting: Setting) -> Sizes:
    return SMALL if setting.small else LARGE


def wall_us(run: Callable[[], object], device: str, runs: int) -> list[float]:
    """Microseconds of each run, by the host's clock; the first ones are not counted."""
    times = []
    for _ in range(runs + min(runs, 3)):
        started = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append(1e6 * (time.perf_counter() - started))
    return times[-runs:]


def card_us(run: Callable[[], object], setting: Setting) -> float:
    """Microseconds of the device alone: several runs in one graph, the median of its replays."""
    if setting.device == "cpu":
        return statistics.median(wall_us(run, "cpu", setting.runs(3)))
    run()
    torch.cuda.synchronize()
    graph, together = torch.cuda.CUDAGraph(), 4
    with torch.cuda.graph(graph):
        for _ in range(together):
            run()
    return statistics.median(wall_us(graph.replay, "cuda", 20)) / together
