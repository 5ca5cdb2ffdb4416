"""Graphs for an arm, where a card, the index and the proof allow them; says in the log what was chosen and why."""

from collections.abc import Sequence

import structlog
import torch

from index.exact import ExactIndex
from model.columns import Columns
from model.device.layout import Answers
from model.encoder import UserEncoder
from model.kernels import available
from service.engine.compute import BatchCompute
from service.engine.graphs import GraphCompute, answers_of
from service.engine.messages import EngineRequest

log = structlog.get_logger()
SIZES = (256, 128, 64, 32, 8, 1)  # users of a batch, the largest first: graphs share memory best so


def with_graphs(general: BatchCompute, sizes: Sequence[int] = SIZES) -> BatchCompute | GraphCompute:
    """The same computation in graphs, proven against it as it is; itself where there are none, and the log says why."""
    encoder, index = general.encoder, general.index
    if not isinstance(encoder, UserEncoder) or (encoder.device.type == "cpu" and not available("cpu")):
        return general
    if not isinstance(index, ExactIndex):
        log.info("graphs", chosen=False, reason=f"the index is {index.spec}; graphs search exactly")
        return general
    if not available(encoder.device.type):
        log.info("graphs", chosen=False, reason=f"Triton has no kernels for {encoder.device.type} here")
        return general
    from model.device.prepare import prepare  # noqa: PLC0415  (needs Triton)

    def answer(columns: Columns) -> Answers:
        requests = [EngineRequest(*user) for user in columns.records()]
        return answers_of(general.run(requests), int(columns.limits.max()))

    prepared = prepare(encoder.network, general.plan, index.table, answer, sizes)
    log.info(
        "graphs",
        chosen=prepared.recall is not None,
        reason=prepared.reason,
        same_lists=prepared.same_lists,
        seconds=round(prepared.seconds, 1),
        device=torch.cuda.get_device_name() if encoder.device.type == "cuda" else encoder.device.type,
    )
    return GraphCompute(prepared.recall, general) if prepared.recall else general
