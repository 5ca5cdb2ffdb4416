"""Many callers, one call: a batch from whoever asks while the last batch is away.

No timer: an idle system answers at once, a busy one forms batches by itself. Knows nothing of Redis.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class _Asked(Generic[K, V]):
    keys: Sequence[K]
    answer: "asyncio.Future[list[V]]"


class Microbatcher(Generic[K, V]):
    """Joins concurrent questions into one call of `load` at a time.

    `load` gets up to `max_batch` keys (more only when one question is larger) and returns one value a key, in order.
    What it raises, every caller of that batch gets; a caller who left is skipped.
    """

    def __init__(self, load: Callable[[list[K]], Awaitable[Sequence[V]]], max_batch: int = 256) -> None:
        self._load, self._max_batch = load, max_batch
        self._waiting: deque[_Asked[K, V]] = deque()
        self._worker: asyncio.Task[None] | None = None

    async def ask(self, keys: Sequence[K]) -> list[V]:
        asked: _Asked[K, V] = _Asked(keys, asyncio.get_running_loop().create_future())
        self._waiting.append(asked)
        if self._worker is None:
            # it starts in the next round of the loop: all who ask in this one are in its first batch
            self._worker = asyncio.create_task(self._work())
        return await asked.answer

    async def _work(self) -> None:
        try:
            while batch := self._take():
                await self._serve(batch)
        finally:
            self._worker = None

    def _take(self) -> list[_Asked[K, V]]:
        batch: list[_Asked[K, V]] = []
        size = 0
        while self._waiting and (not batch or size + len(self._waiting[0].keys) <= self._max_batch):
            asked = self._waiting.popleft()
            if not asked.answer.done():
                batch.append(asked)
                size += len(asked.keys)
        return batch

    async def _serve(self, batch: list[_Asked[K, V]]) -> None:
        # gather hands an exception over as a value: each caller is told, and the worker lives on
        [outcome] = await asyncio.gather(self._load([key for a in batch for key in a.keys]), return_exceptions=True)
        start = 0
        for asked in batch:
            end = start + len(asked.keys)
            if asked.answer.done():
                pass
            elif isinstance(outcome, BaseException):
                asked.answer.set_exception(outcome)
            else:
                asked.answer.set_result(list(outcome[start:end]))
            start = end
