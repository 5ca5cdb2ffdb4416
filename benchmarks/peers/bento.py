"""BentoML with adaptive batching: bentoml serve benchmarks.peers.bento:Recall --port PORT"""

import bentoml
from pydantic import BaseModel

from benchmarks.peers.model import Model


class RecallQuery(BaseModel):
    user_id: int
    history: list[int]
    top_n: int = 100


class RecallResult(BaseModel):
    items: list[int]
    scores: list[float]


@bentoml.service(traffic={"max_concurrency": 512, "timeout": 10})
class Batched:
    def __init__(self) -> None:
        self.model = Model.open()

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=30)
    def answer(self, queries: list[RecallQuery]) -> list[RecallResult]:
        lists = self.model.answer([query.history for query in queries], queries[0].top_n)
        return [RecallResult.model_validate(columns) for columns in lists]


@bentoml.service(traffic={"max_concurrency": 512, "timeout": 10})
class Recall:
    batched = bentoml.depends(Batched)

    @bentoml.api(route="/recall")
    async def recall(self, user_id: int, history: list[int], top_n: int = 100) -> RecallResult:
        [answer] = await self.batched.to_async.answer([RecallQuery(user_id=user_id, history=history, top_n=top_n)])
        result: RecallResult = answer
        return result
