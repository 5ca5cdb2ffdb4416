"""The process that computes: bundles, indexes, cache and compute threads, asked by HTTP processes over ZeroMQ.

Started by the supervisor, which outlives it; it ends when it is told to, or when the supervisor is gone. Ctrl-C is for
the supervisor: this process has to answer until the last HTTP process has ended.
"""

import asyncio
import json
import os
import signal
import sys
from contextlib import AsyncExitStack

import structlog
import uvloop

from service.bootstrap import SWITCH_S, open_experiments, register
from service.engine.metadata import wait_for_bundles
from service.engine_process import open_engines
from service.errors import ConfigurationError
from service.memory import freeze_loaded, keep_tidy, share_heap
from service.processes.heartbeat import ENVIRONMENT, Heart, until_lost
from service.remote.server import EngineServer
from service.settings import Settings
from service.stores.collectors import RedisCollector
from service.telemetry.logging import configure_logging
from service.telemetry.metrics import Metrics
from service.telemetry.process import ProcessCollector

log = structlog.get_logger()


async def run_engine(settings: Settings, address: str, heart: Heart) -> None:
    """Answers until it is told to stop. Raises ConfigurationError where an arm cannot be served."""
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stopping.set)
    loop.add_signal_handler(signal.SIGINT, lambda: None)
    await asyncio.to_thread(wait_for_bundles, list(settings.arms.values()), settings.bundle_wait_s)
    # the HTTP processes read them too: what cannot be used is refused before the bundles are opened
    open_experiments(settings)
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        engines = await stack.enter_async_context(open_engines(settings, metrics))
        register(metrics, *engines.collectors, RedisCollector(engines.redis_clients), ProcessCollector("engine", loop))
        observer = metrics.engine("unknown")
        server = EngineServer(address, engines.arms, metrics.render, observer, engines.releases, engines.state)
        engines.releases.subscribe(server)
        stack.push_async_callback(server.close)
        freeze_loaded()
        stack.callback(asyncio.create_task(keep_tidy()).cancel)
        sys.setswitchinterval(SWITCH_S)
        beating = asyncio.create_task(until_lost(heart, stopping.set))
        stack.callback(beating.cancel)
        await stopping.wait()


def main() -> None:
    """Runs the engine process."""
    told = json.loads(os.environ.pop(ENVIRONMENT))
    settings, heart = Settings(**told["settings"]), Heart(told["heartbeat"])
    configure_logging(settings.log_level)
    share_heap()
    try:
        uvloop.run(run_engine(settings, told["engine"], heart))
    except ConfigurationError as error:
        heart.refuse(str(error))
        sys.exit(2)


if __name__ == "__main__":
    main()
