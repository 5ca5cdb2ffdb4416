"""The encoder of a network on the device: kernels where there are some, else the network's own operations.

The latter run inside `invariant()`, so their bits do not depend on the batch either.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from model.batch import Batch
from model.device.generator import EncodedBatch, Generator
from model.device.layout import ROWS
from model.kernels.invariant import invariant
from model.kernels.packed import LENGTH, USER
from model.kernels.search import Table
from model.networks.base import Network
from model.networks.blend import Blend
from model.networks.recgpt import RecGPT
from model.records import PromptPlan


class DeviceEncoder(Protocol):
    """Turns the integer matrix into query vectors, without waiting for the device."""

    def encode(self, given: Tensor) -> EncodedBatch: ...


@dataclass(frozen=True)
class NetworkEncoder:
    """The network itself."""

    network: Network
    plan: PromptPlan

    def encode(self, given: Tensor) -> EncodedBatch:
        length = self.network.config.max_length
        lengths, users = given[:, LENGTH].long(), given[:, USER].long()
        rows = given[:, ROWS : ROWS + length].long()
        # columns behind a history hold those of an earlier one
        rows = rows * (torch.arange(length, device=given.device) < lengths[:, None])
        with invariant():
            vectors, prompts = self.network.queries(Batch(rows, lengths, users), self.plan)
        return EncodedBatch(vectors, prompts, torch.zeros_like(given[:, LENGTH]))


@dataclass(frozen=True)
class BlendEncoder:
    """The parts of a blend, each by its own encoder; one vector a step, as in networks/blend.py."""

    parts: Sequence[DeviceEncoder]
    weights: Tensor
    num_steps: int

    def encode(self, given: Tensor) -> EncodedBatch:
        answers = [part.encode(given) for part in self.parts]
        vectors = [
            weight * answer.vectors.expand(-1, self.num_steps, -1)
            for weight, answer in zip(self.weights, answers, strict=True)
        ]
        # one part at most generates: the others have no columns
        prompts = max((answer.prompts for answer in answers), key=lambda rows: rows.shape[1])
        doubtful = torch.stack([answer.doubtful for answer in answers]).amax(0)
        return EncodedBatch(torch.cat(vectors, -1), prompts, doubtful)


def encoder_of(network: Network, plan: PromptPlan, table: Table | None = None) -> DeviceEncoder:
    """table: of the network's own items, where there is one."""
    if isinstance(network, Blend):
        parts = cast(Sequence[Network], list(network.parts))
        own = [encoder_of(part, plan if part.generates else PromptPlan()) for part in parts]
        return BlendEncoder(own, network.weights, plan.num_vectors)
    if isinstance(network, RecGPT) and Generator.supports(network, plan):
        return Generator.of(network, plan, table)
    return NetworkEncoder(network, plan)
