"""A blend whose decoder is compiled: the vectors of its parts side by side, as the network puts them."""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from model.fused.library import UnavailableError
from model.fused.proof import proven_decoder
from model.networks.base import Network
from model.networks.blend import Blend
from model.records import History, PromptPlan, QueryVectors


class PlainEncoder(Protocol):
    """Answers for a network that generates nothing: one vector a history."""

    def encode(self, histories: Sequence[History]) -> QueryVectors: ...


class FusedBlend:
    """Histories to the query vectors of a blend. As thread-safe as what encodes the other parts."""

    def __init__(self, blend: Blend, plan: PromptPlan, encoder_of: Callable[[Network], PlainEncoder]) -> None:
        """encoder_of: makes what encodes the parts that generate nothing, which are given as a blend of their own.

        Raises UnavailableError where there are none, or no compiled pass for the part that generates.
        """
        place = next((place for place, part in enumerate(blend.parts) if part.generates), None)
        if place is None or len(blend.parts) < 2:
            raise UnavailableError("network")
        self._decoder = proven_decoder(blend.generating, plan)
        self._others = encoder_of(blend.without(place))
        self._weight = np.float32(blend.weights[place])
        self._num_before = sum(part.item_vectors().shape[1] for part in list(blend.parts)[:place])  # type: ignore[operator]

    def run(self, windows: Sequence[Sequence[int]], users: Sequence[int]) -> QueryVectors:
        """(B, Q, D) query vectors and (B, P) generated items, as `FusedDecoder.run`."""
        own = self._decoder.run(windows, users)
        histories = [History(tuple(window), user) for window, user in zip(windows, users, strict=True)]
        others = self._others.encode(histories).vectors  # (B, 1, D'), their weights in them
        # they repeat their vector in every step
        others = np.broadcast_to(others, (*own.vectors.shape[:2], others.shape[2]))
        before, behind = others[..., : self._num_before], others[..., self._num_before :]
        return QueryVectors(np.concatenate([before, self._weight * own.vectors, behind], 2), own.prompts)
