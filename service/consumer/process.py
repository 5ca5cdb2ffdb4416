"""The consumer as a process: run in the foreground by `recall events consume`, or started beside a service.

A service that starts the embedded redis-server starts one too, and ends it before that server: its last act is to write
what is left. It ends by itself when its service is gone.
"""

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import structlog
from redis import Redis

from service.consumer.child import ENVIRONMENT, WATCH_S
from service.consumer.consumer import Consumer
from service.consumer.files import EventFolder
from service.consumer.limits import DEFAULTS, ConsumerLimits
from service.errors import ConfigurationError
from service.stores.redis_urls import open_blocking, parse_address
from service.telemetry.logging import configure_logging

TIMEOUT_S = 10.0
log = structlog.get_logger()


@contextmanager
def open_consumer(url: str, folder: Path, limits: ConsumerLimits = DEFAULTS) -> Iterator[Consumer]:
    """A consumer of the streams at `url`. Raises ConfigurationError for a URL or a folder that is unusable."""
    address = parse_address(url, "events")
    # nothing is asked yet, but of a Cluster: that is done when the consumer begins
    files = EventFolder(folder)
    # the commands of both are the same
    consumer = Consumer(lambda: cast(Redis, open_blocking(address, "events", TIMEOUT_S)), files, limits)
    try:
        yield consumer
    finally:
        files.close()
        consumer.close()


def consume(url: str, folder: Path, limits: ConsumerLimits, parent: int | None = None) -> None:
    """Consumes until SIGTERM or SIGINT, or until the process `parent` is gone. Raises ConfigurationError."""
    stop = threading.Event()
    with open_consumer(url, folder, limits) as consumer:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        if parent is not None:
            threading.Thread(target=_wait_for_end, args=(parent, stop), daemon=True).start()
        consumer.run(stop)


def _wait_for_end(parent: int, stop: threading.Event) -> None:
    while not stop.wait(WATCH_S):
        # a process whose parent has ended gets another one
        if os.getppid() != parent:
            stop.set()


def main() -> None:
    """Runs the consumer of a service."""
    told = json.loads(os.environ.pop(ENVIRONMENT))
    configure_logging(told["log_level"])
    try:
        consume(told["url"], Path(told["folder"]), ConsumerLimits(**told["limits"]), told["parent"])
    except ConfigurationError as error:
        log.error("no_consumer", error=str(error))


if __name__ == "__main__":
    main()
