"""Decides at start if graphs answer: captures them, proves their lists and bits, and says why or why not."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from triton.errors import TritonError

from model.columns import Columns
from model.device import proof
from model.device.chain import Chain
from model.device.lane import Lane
from model.device.layout import Answers
from model.device.recall import DeviceRecall
from model.kernels.search import Table
from model.networks.base import Network
from model.records import ServingPlan

LANES = 2  # of each size: one is filled or read while the other computes


@dataclass(frozen=True)
class Prepared:
    """A recall on the device, or the reason why the general path answers; with what was measured on the way."""

    recall: DeviceRecall | None
    reason: str
    same_lists: float = 0.0  # share of probes whose lists are the general path's, item by item
    seconds: float = 0.0


def prepare(
    network: Network,
    plan: ServingPlan,
    table: Table,
    general: Callable[[Columns], Answers],
    sizes: Sequence[int],
) -> Prepared:
    """Captures and proves; never raises for what a device or a system cannot do, but says why.

    sizes: users of a batch, the largest first. general: the lists and vectors of the path that serves without graphs.
    """
    started = time.monotonic()
    if plan.diversity:
        return Prepared(None, "diversity re-ranks lists on the host")
    probes = proof.probes(network, sizes[0])
    expected = general(probes)
    try:
        chain = Chain.of(network, plan, table, expected.vectors.shape[1])
        largest = Lane(chain, sizes[0])
        answers = proof.answer(largest, probes)
        same = proof.share_of_same(answers, expected)
        if why := proof.difference(answers, expected):
            return Prepared(None, why, same, time.monotonic() - started)
        lanes = {sizes[0]: [largest]}
        for size in sizes[1:]:
            lane = Lane(chain, size)
            # a size without the same bits is left out: its batches run in the next larger one
            if proof.same_bits(lane, probes, answers):
                lanes[size] = [lane]
        for size, own in lanes.items():
            own.extend(Lane(chain, size) for _ in range(LANES - 1))
    # what a driver, a compiler or a card's memory refuses: the service starts, and computes on the general path
    except (TritonError, RuntimeError, ValueError, AttributeError, NotImplementedError) as error:
        return Prepared(None, f"{type(error).__name__}: {str(error)[:200]}", 0.0, time.monotonic() - started)
    proven = ", ".join(map(str, sorted(lanes)))
    reason = f"{type(chain.encoder).__name__}: lists as the general path's, the same bits at sizes {proven}"
    return Prepared(DeviceRecall(lanes), reason, same, time.monotonic() - started)
