"""The consumer's process as a service starts it; nothing that the consumer itself needs is loaded here."""

import asyncio
import json
import os
import subprocess
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import structlog

from service.consumer.limits import ConsumerLimits
from service.subprocesses import child_environment, module_command

ENVIRONMENT = "RECALL_CONSUMER"  # address, folder and limits for the process, as JSON: an address may hold a password
STOP_S, WATCH_S = 8.0, 1.0
STEADY_S, MAX_PAUSE_S = 10.0, 30.0
log = structlog.get_logger()


def start_consumer(url: str, folder: Path, limits: ConsumerLimits, log_level: str) -> "subprocess.Popen[bytes]":
    """Starts a consumer that ends with this process."""
    told = {"url": url, "folder": str(folder), "limits": asdict(limits), "log_level": log_level, "parent": os.getpid()}
    environment = child_environment(**{ENVIRONMENT: json.dumps(told)})
    command = module_command("service.consumer.process")
    # a session of its own: Ctrl-C is for the service, whose last events it still has to write
    return subprocess.Popen(command, env=environment, start_new_session=True)  # noqa: S603  (our own command)


class ConsumerProcess:
    """A consumer beside the service. Belongs to one event loop."""

    def __init__(self, url: str, folder: Path, limits: ConsumerLimits, log_level: str) -> None:
        """Starts it; `watch` keeps it running."""
        self._start = partial(start_consumer, url, folder, limits, log_level)
        self._process = self._start()

    async def watch(self) -> None:
        """Starts it again when it has ended, after 1, 2, 4 .. s where it does not stay; until this is cancelled."""
        started_at, pause_s = time.monotonic(), 0.0
        while True:
            await asyncio.sleep(WATCH_S)
            if (status := self._process.poll()) is None:
                continue
            is_steady = time.monotonic() - started_at > STEADY_S
            # one that cannot start takes half a second of CPU each time to find that out
            pause_s = 0.0 if is_steady else min(MAX_PAUSE_S, max(1.0, 2 * pause_s))
            log.warning("consumer_ended", status=status, again_in_s=pause_s)
            await asyncio.sleep(pause_s)
            self._process, started_at = self._start(), time.monotonic()

    def close(self) -> None:
        """Has it write what is left, and returns when it has ended. Blocks."""
        # told, not killed: its last act is to write what waits
        self._process.terminate()
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
