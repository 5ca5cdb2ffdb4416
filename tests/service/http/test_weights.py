"""The weight of requests at admission, seen by the engine that computes for them."""

import asyncio
import json
from dataclasses import replace

import httpx
import pytest

from service.admission.gate import BASE_WEIGHT, Lane
from service.engine_process import open_engines
from service.http.app import create_app
from service.settings import Settings

RULE = {
    "key": "both",
    "kind": "interleaving",
    "hashAttribute": "user_id",
    "hashVersion": 2,
    "variations": ["comirec", "recgpt"],
}
HISTORY = [10_001, 10_008, 10_022]


class Weighing:
    """An engine that notes what is under way whenever it is asked."""

    def __init__(self, engine, gate, notes):
        self._engine, self._gate, self._notes = engine, gate, notes

    @property
    def last_batch_at(self):
        return self._engine.last_batch_at

    @property
    def problem(self):
        return self._engine.problem

    async def ask(self, request):
        self._notes.append(dict(self._gate.under_way))
        return await self._engine.ask(request)

    async def ask_block(self, block):
        self._notes.append(dict(self._gate.under_way))
        return await self._engine.ask_block(block)

    async def close(self):
        await self._engine.close()


@pytest.fixture(scope="module")
def weights(bundles, tmp_path_factory):
    """The weights under way that the engines saw, by request."""
    path = tmp_path_factory.mktemp("experiments") / "experiments.json"
    path.write_text(json.dumps({"features": {"recall_arm": {"defaultValue": "comirec", "rules": [RULE]}}}))
    arms = {arm: bundles[arm] for arm in ("recgpt", "comirec")}
    app = create_app(
        Settings(arms=arms, experiments=path, redis_url="memory", request_timeout_ms=60_000, log_level="warning"),
        open_engines,
    )
    own = {"user_id": "u", "history": HISTORY}
    asked = {"alone": ("/recall/recgpt", own), "both": ("/recall", own)}
    asked |= {
        "batch alone": ("/recall/batch", {"requests": [own] * 4, "arm": "recgpt"}),
        "batch of both": ("/recall/batch", {"requests": [own] * 4}),
    }

    async def main():
        seen = {}
        async with app.router.lifespan_context(app):
            notes = []
            for slot in app.service.pipeline.arms.values():
                slot.put(replace(slot.current, engine=Weighing(slot.current.engine, app.gate, notes)))
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
                for name, (route, body) in asked.items():
                    notes.clear()
                    assert (await client.post(route, json=body)).status_code == 200
                    seen[name] = [*notes]
            assert app.gate.under_way == dict.fromkeys(Lane, 0)
        return seen

    return asyncio.run(main())


def test_an_interleaved_request_weighs_as_two(weights):
    weight = BASE_WEIGHT + len(HISTORY)
    assert {note[Lane.SINGLE] for note in weights["alone"]} == {weight}
    assert {note[Lane.SINGLE] for note in weights["both"]} == {2 * weight}
    assert (len(weights["alone"]), len(weights["both"])) == (1, 2)


def test_a_batch_of_interleaved_members_weighs_twice(weights):
    alone, both = ({note[Lane.BATCH] for note in weights[name]} for name in ("batch alone", "batch of both"))
    assert both == {2 * weight for weight in alone}
