"""Exposures over real HTTP where requests fail: an arm that refuses a tenth of its users still has all of them."""

import asyncio
import os
import signal
from contextlib import asynccontextmanager
from dataclasses import replace

import httpx
import pytest
import uvicorn

from service.engine_process import open_engines
from service.errors import DeadlineExceeded, EngineFailed, Overloaded
from service.events.spool import Spool
from service.events.streams import EXPOSURES
from service.experiments.exposure import Exposure
from service.experiments.verdict.sample_ratio import RatioState, judge_ratio
from service.http.app import create_app
from service.processes.addresses import listen
from service.settings import Settings
from service.stores.embedded_redis import EmbeddedRedis

NUM_USERS, MEMBERS = 6000, 250
FAILURES = {"429": Overloaded("full"), "504": DeadlineExceeded("late"), "fallback": EngineFailed("broken")}
WEIGHTS = {"control": 0.5, "recgpt": 0.5}


class Outcomes:
    """The outcomes of a block, some of them put in place of others."""

    def __init__(self, outcomes, timings_ms):
        self._outcomes, self.timings_ms = outcomes, timings_ms

    def outcomes(self):
        return self._outcomes


class Failing:
    """An engine that does not answer every tenth request."""

    def __init__(self, engine, error):
        self._engine, self._error, self._num_asked = engine, error, 0

    @property
    def last_batch_at(self):
        return self._engine.last_batch_at

    @property
    def problem(self):
        return self._engine.problem

    async def ask(self, request):
        self._num_asked += 1
        if self._num_asked % 10 == 0:
            raise self._error
        return await self._engine.ask(request)

    def _unless_tenth(self, outcome):
        self._num_asked += 1
        return self._error if self._num_asked % 10 == 0 else outcome

    async def ask_block(self, block):
        result = await self._engine.ask_block(block)
        return Outcomes([self._unless_tenth(outcome) for outcome in result.outcomes()], result.timings_ms)

    async def close(self):
        await self._engine.close()


@asynccontextmanager
async def serving(app):
    """The address of the application behind a real server."""
    with listen("127.0.0.1", 0) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off"))
        async with app.router.lifespan_context(app):
            running = asyncio.create_task(server.serve(sockets=[listener]))
            try:
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                server.should_exit = True
                await running


async def ask_everybody(url, prefix):
    users = [f"{prefix}-{number}" for number in range(NUM_USERS)]
    async with httpx.AsyncClient(base_url=url, timeout=60) as client:
        for start in range(0, NUM_USERS, MEMBERS):
            members = [{"user_id": user, "top_n": 1, "history": []} for user in users[start : start + MEMBERS]]
            reply = await client.post("/recall/batch", json={"requests": members})
            assert reply.status_code == 200


def count(exposures):
    return {key: sum(exposure.variation == key for exposure in exposures) for key in WEIGHTS}


@pytest.fixture(scope="module")
def exposures(bundles):
    """Exposures, by failure, of users who each asked once, while the treatment fails in a tenth of its requests."""
    arms = {arm: bundles[arm] for arm in ("recgpt", "comirec")}
    app = create_app(
        Settings(arms=arms, redis_url="memory", request_timeout_ms=60_000, log_level="warning"), open_engines
    )

    async def main():
        async with serving(app) as url:
            slot = app.service.pipeline.arms["recgpt"]
            whole = slot.current
            for failure, error in FAILURES.items():
                slot.put(replace(whole, engine=Failing(whole.engine, error)))
                with pytest.MonkeyPatch.context() as patch:
                    # as if each deadline had passed by then: before it, the fallback answers who is late
                    patch.setattr("service.pipeline.is_filled", lambda error, _: isinstance(error, EngineFailed))
                    await ask_everybody(url, failure)
            slot.put(whole)
            page = await app.service.stores.outbox.reader(EXPOSURES, Exposure.from_json).read(limit=100_000)
            return [entry.event for entry in page.events]

    written = asyncio.run(main())
    return {failure: [event for event in written if event.unit.startswith(f"{failure}-")] for failure in FAILURES}


@pytest.mark.parametrize("failure", FAILURES)
def test_sample_ratio_does_not_alarm_where_one_arm_refuses_a_tenth(exposures, failure):
    assert len(exposures[failure]) == len({exposure.unit for exposure in exposures[failure]}) == NUM_USERS
    assert judge_ratio(count(exposures[failure]), WEIGHTS, final=True).state is RatioState.GREEN


@pytest.mark.parametrize("failure", FAILURES)
def test_whom_the_arm_failed_is_exposed_and_says_so(exposures, failure):
    treated = [exposure for exposure in exposures[failure] if exposure.variation == "recgpt"]
    served = {name: sum(exposure.served == name for exposure in treated) for name in ("recgpt", failure)}
    assert sum(served.values()) == len(treated)
    # the shadow comparison asks the arm too, and may be the tenth
    assert served[failure] == pytest.approx(len(treated) / 10, abs=5)
    assert {exposure.assigned for exposure in treated} == {"recgpt"}


@pytest.mark.parametrize("failure", FAILURES)
def test_without_those_exposures_the_sample_ratio_would_alarm(exposures, failure):
    answered = [exposure for exposure in exposures[failure] if exposure.served == exposure.assigned]
    assert judge_ratio(count(answered), WEIGHTS, final=True).state is not RatioState.GREEN


def test_stopped_while_redis_is_frozen_keeps_every_exposure(launch, arm_options, tmp_path):
    patience = ("--request-timeout-ms", "30000", "--events-timeout-ms", "100")
    with (
        EmbeddedRedis(tmp_path) as server,
        launch(*arm_options, *patience, "--redis-url", server.url) as served,
        httpx.Client(base_url=served.url, timeout=60) as client,
    ):
        os.kill(server.pid, signal.SIGSTOP)
        try:
            for number in range(120):
                assert client.post("/recall", json={"user_id": number, "history": [10001]}).status_code == 200
            assert served.stop() == 0
        finally:
            os.kill(server.pid, signal.SIGCONT)
        entries, _ = Spool(served.state / "spool", 1 << 20).read()
        kept = [Exposure.from_json(data).unit for stream, data in entries if stream == EXPOSURES]
        assert set(kept) == {str(number) for number in range(120)}
