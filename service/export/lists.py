"""From histories to lists, batch by batch: the service's own requests, computation and fill, without its queue.

As in the engine two threads compute: one encodes, while the other searches and merges the batch before.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

from model.catalogue import ExternalId
from model.merging import Merged
from service.engine.loading import LoadedArm, prepare_compute_thread
from service.engine.messages import EngineRequest, EngineResult
from service.fallback import filled, reasons

BATCH = 64  # users, where the computation does not say
AHEAD = 2  # batches under way, so that neither thread waits for the one that asks
User = tuple[ExternalId, Sequence[ExternalId]]  # id, history with the oldest item first


class UserList(NamedTuple):
    """The list of one user in rows, and the reasons why it is less than it could be."""

    listed: Merged
    degraded: list[str]


@dataclass(frozen=True)
class ListMaker:
    """Makes the lists of one arm; as long as `top_n` whenever the catalogue allows."""

    arm: LoadedArm
    top_n: int

    @property
    def batch_size(self) -> int:
        """Users that are computed together."""
        return self.arm.compute.max_block or BATCH

    def lists(self, batches: Iterable[Sequence[User]]) -> Iterator[list[UserList]]:
        """The lists of each batch, in order; batches are read some ahead. Batches hold at most `batch_size` users."""
        under_way = deque[Future[list[UserList]]]()
        with self._thread("encode") as encoding, self._thread("search") as searching:
            for users in batches:
                requests = [self._request(*user) for user in users]
                encoded = encoding.submit(self.arm.compute.encode, requests)
                under_way.append(searching.submit(self._answers, requests, encoded))
                # the oldest is waited for when enough are under way: memory stays bounded, and lists come in order
                if len(under_way) > AHEAD:
                    yield under_way.popleft().result()
            while under_way:
                yield under_way.popleft().result()

    @staticmethod
    def _thread(stage: str) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(1, f"recall-{stage}", prepare_compute_thread)

    def _request(self, user: ExternalId, history: Sequence[ExternalId]) -> EngineRequest:
        return self.arm.release.request(user, history, limit=self.top_n)

    def _answers(self, requests: Sequence[EngineRequest], encoded: "Future[Any]") -> list[UserList]:
        # no block was asked, so that none answers
        results = cast(Sequence[EngineResult], self.arm.compute.search(requests, encoded.result()))
        return [self._finished(*pair) for pair in zip(requests, results, strict=True)]

    def _finished(self, request: EngineRequest, result: EngineResult) -> UserList:
        degraded = reasons(request, result)
        return UserList(filled(self.arm.release, request, result, degraded), degraded)
