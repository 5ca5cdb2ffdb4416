"""Ray Serve with its batching decorator: python -m benchmarks.peers.ray_serve PORT"""

import sys
import time
from typing import Any

from ray import serve
from starlette.requests import Request

from benchmarks.peers.model import ListColumns, Model


class Recall:
    def __init__(self) -> None:
        self.model = Model.open()

    @serve.batch(max_batch_size=64, batch_wait_timeout_s=0.002)
    async def answer(self, bodies: list[dict[str, Any]]) -> list[ListColumns]:
        # one length a batch: the load asks all for the same
        return self.model.answer([body["history"] for body in bodies], bodies[0]["top_n"])

    async def __call__(self, request: Request) -> ListColumns:
        columns: ListColumns = await self.answer(await request.json())
        return columns


if __name__ == "__main__":
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    deployment = serve.deployment(max_ongoing_requests=512)(Recall)
    serve.run(deployment.bind(), route_prefix="/recall")
    while True:
        time.sleep(1)
