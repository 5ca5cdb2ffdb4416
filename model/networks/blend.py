"""Several systems in one vector: their scores add up, so one index search ranks by all of them.

Each part is trained alone by its own recipe; the weights of their scores come from the validation split
(training/fit.py). Query vectors and item vectors are those of the parts side by side, the queries times the weight:
their inner product is the weighted sum. At most one part generates prompts; the others repeat their vector in every
step.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from model.batch import Batch, Queries
from model.generation.greedy import NextItem
from model.networks.base import Network, NetworkConfig
from model.records import PromptPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class BlendConfig(NetworkConfig):
    parts: Sequence[Mapping[str, Any]]  # {"system": .., "network": {..}} each

    def __post_init__(self) -> None:
        # a list, as a file gives it, is no other blend than a tuple
        object.__setattr__(self, "parts", tuple(self.parts))


class Blend(Network):
    kind: ClassVar[str] = "blend"
    generates: ClassVar[bool] = True  # where a part does
    trained: ClassVar[bool] = False  # its parts are
    config: BlendConfig
    weights: Tensor  # (P,) of the parts' scores

    def __init__(self, config: BlendConfig, parts: Sequence[Network]) -> None:
        """Raises ValueError where the parts cannot answer together."""
        super().__init__()
        self.config = config
        self.parts = nn.ModuleList(parts)
        if not parts or sum(part.generates for part in parts) > 1:
            raise ValueError("a blend has one part at least, and one at most that generates prompts")
        self.register_buffer("weights", torch.ones(len(parts)))

    @property
    def generating(self) -> Network:
        """Raises StopIteration where no part generates: no plan of such a blend asks for it."""
        part: Network = next(part for part in self.parts if part.generates)  # type: ignore[assignment]
        return part

    def without(self, place: int) -> "Blend":
        """A blend of the other parts, which it shares, with their weights."""
        kept = [number for number in range(len(self.parts)) if number != place]
        config = replace(self.config, parts=tuple(self.config.parts[number] for number in kept))
        others = Blend(config, [self.parts[number] for number in kept])  # type: ignore[misc]
        others.weights.copy_(self.weights[kept])
        return others.train(self.training)

    def item_vectors(self) -> Tensor:
        return torch.cat([part.item_vectors() for part in self.parts], 1)  # type: ignore[operator]

    def training_pairs(self, batch: Batch, num_prompts: int = 0) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        raise ValueError("the parts of a blend are trained one by one, each by its own recipe")

    def queries(self, batch: Batch, plan: PromptPlan, next_item: NextItem | None = None) -> Queries:  # noqa: ARG002
        if plan != PromptPlan() and not any(part.generates for part in self.parts):
            raise ValueError("no part of this blend generates prompts; its plan may not ask for more than one step")
        answers = [part.queries(batch, plan if part.generates else PromptPlan()) for part in self.parts]  # type: ignore[operator]
        steps = plan.num_vectors
        if wide := [answer for answer in answers if answer.vectors.shape[1] not in (1, steps)]:
            raise ValueError(f"a part gives {wide[0].vectors.shape[1]} vectors a user; a blend adds up one a step")
        vectors = [
            weight * answer.vectors.expand(-1, steps, -1) for weight, answer in zip(self.weights, answers, strict=True)
        ]
        # (B, 0) of every part but the one that generates
        prompts = max((answer.prompts for answer in answers), key=lambda rows: rows.shape[1])
        return Queries(torch.cat(vectors, -1), prompts)
