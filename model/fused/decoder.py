"""RecGPT under a plan, in the form that the compiled pass reads: weights as panels, everything else where it lies."""

from collections.abc import Sequence
from ctypes import addressof
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.fused.library import Block, Decoder, Plan, UnavailableError, open_library
from model.networks.base import Network
from model.networks.layers import Block as NetworkBlock
from model.networks.recgpt import RecGPT
from model.records import Placement, PromptForm, PromptPlan, QueryVectors

PANEL = 64  # columns of a weight that lie side by side
LANES = 16  # numbers that are computed at once


class FusedDecoder:
    """Histories to query vectors in one call. Thread-safe."""

    def __init__(self, network: Network, plan: PromptPlan) -> None:
        """network: in eval mode, its weights final: those of the layers are copied, the tables are not.

        Raises UnavailableError where the compiled pass does not know such a network, or cannot run here.
        """
        self._library = open_library()
        if not isinstance(network, RecGPT) or not _fits(network):
            raise UnavailableError("network")
        self._kept: list[Tensor] = []  # whose memory the records below point to
        self._blocks = (Block * len(network.blocks))(*(self._block(block) for block in network.blocks))  # type: ignore[arg-type]
        self._decoder = self._record(network)
        self._plan = Plan(
            plan.num_prompts if plan.placement is Placement.ALL else 0,
            plan.num_prompts if plan.placement is Placement.TAIL else 0,
            plan.num_steps,
            plan.form is PromptForm.SOFT,
            plan.temperature,
        )
        self._addresses = addressof(self._decoder), addressof(self._plan)
        self._dim, self._num_generated = network.config.dim, self._plan.num_tail + plan.num_steps - 1
        self._num_steps, self._weights = plan.num_steps, plan.step_weights
        self._hides_users = network.config.user_dropout == 1

    def run(self, windows: Sequence[Sequence[int]], users: Sequence[int]) -> QueryVectors:
        """(B, Q, D) query vectors and (B, P) generated items.

        windows: rows 1..N, none longer than the network's window. users: rows. Neither is checked.
        """
        B = len(windows)
        offsets = np.zeros(B + 1, np.int64)
        offsets[1:] = [len(window) for window in windows]
        np.cumsum(offsets, out=offsets)
        rows = np.fromiter(chain.from_iterable(windows), np.int64, offsets[-1])
        # a row that was never trained is not the unknown user
        known = np.zeros(B, np.int64) if self._hides_users else np.array(users, np.int64)
        vectors = np.empty((B, self._num_steps, self._dim), np.float32)
        prompts = np.empty((B, self._num_generated), np.int64)
        arrays = (rows, offsets, known, vectors, prompts)
        if self._library.encode(*self._addresses, B, *(array.ctypes.data for array in arrays)):
            raise MemoryError(f"no memory to encode {B} histories")
        return QueryVectors(self._summed(vectors), prompts)

    def _summed(self, vectors: NDArray[np.float32]) -> NDArray[np.float32]:
        if not self._weights:
            return vectors
        # in the order of `recall_queries`
        weighted = [np.float32(weight) * vectors[:, step] for step, weight in enumerate(self._weights)]
        total: NDArray[np.float32] = sum(weighted[1:], start=weighted[0])
        return total[:, None]

    def _address(self, tensor: Tensor) -> int:
        self._kept.append(tensor.detach().contiguous())
        return self._kept[-1].data_ptr()

    def _record(self, network: RecGPT) -> Decoder:
        config, norm = network.config, network.norm
        sizes = (config.dim, config.num_heads, config.num_layers, config.num_items, config.max_length)
        tables = (network.items, network.positions, network.users, network.segments)
        return Decoder(
            *sizes,
            config.num_segments,
            *(self._address(table.weight) for table in tables),
            self._address(norm.weight),
            self._address(norm.bias),
            self._blocks,
            norm.eps,
            *(network.past or (0.0, 0.0)),
        )

    def _block(self, block: NetworkBlock) -> Block:
        qkv, D = block.attention.qkv, block.attention.width.dim
        # between the two of the feed-forward net stands its GELU
        others: list[nn.Linear] = [block.attention.out, block.forward_net[0], block.forward_net[2]]  # type: ignore[list-item]
        layers = [
            (qkv.weight[:D], qkv.bias[:D]),
            (qkv.weight[D:], qkv.bias[D:]),
            *((layer.weight, layer.bias) for layer in others),
        ]
        norms: tuple[nn.LayerNorm, nn.LayerNorm] = (block.norm_attention, block.norm_forward)
        return Block(
            *(self._address(part) for weight, bias in layers for part in (panels(weight), _filled(bias))),
            *(self._address(part) for norm in norms for part in (norm.weight, norm.bias)),
            *(norm.eps for norm in norms),
        )


def panels(weight: Tensor) -> Tensor:
    """(N', K, 64) of a weight (N, K): its rows 64 by 64, side by side, filled up with zeros."""
    filled = _filled(weight.detach())
    return filled.view(-1, PANEL, weight.shape[1]).transpose(1, 2).contiguous()


def _filled(rows: Tensor) -> Tensor:
    return torch.cat([rows.detach(), rows.new_zeros(-len(rows) % PANEL, *rows.shape[1:])])


def _fits(network: RecGPT) -> bool:
    config, table = network.config, network.items.weight
    is_plain = table.device.type == "cpu" and table.dtype == torch.float32
    # numbers are computed 16 at a time, and so are scores
    return is_plain and not network.width.head_width % LANES and config.num_items >= LANES
