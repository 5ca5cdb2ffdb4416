"""An arm of the experiment: a bundle and a plan, ready to answer, and the engine that computes for it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from model.catalogue import Catalogue
from model.records import ServingPlan
from service.engine.fill import FILLED
from service.engine.messages import EngineRequest, EngineResult
from service.stores.vector_cache import VectorCache

SOURCE_NAMES = {"recgpt": "step", "blend": "step", "comirec": "interest"}


@dataclass(frozen=True, slots=True)
class Arm:
    """A bundle and a plan, ready to answer."""

    name: str
    kind: str
    bundle: str  # its digest, the first 16 hexadecimal digits
    catalogue: Catalogue
    plan: ServingPlan
    plan_digest: str
    window: int  # newest history items that can change the answer
    engine: "EngineClient"

    def source_name(self, source: int) -> str:
        """step1, interest3, popular .."""
        return "popular" if source == FILLED else f"{SOURCE_NAMES.get(self.kind, 'vector')}{source + 1}"


class EngineClient(Protocol):
    """What computes for an arm: an Engine of this process, or one of another (service/engine/remote.py)."""

    cache: VectorCache | None
    dropped: Counter[str]
    last_batch_at: float
    on_batch: Callable[[int, int], None]
    on_times: Callable[[dict[str, float]], None]

    async def ask(self, request: EngineRequest) -> EngineResult: ...
    async def close(self) -> None: ...
    @property
    def index(self) -> object: ...
    @property
    def encoder(self) -> object: ...
