"""A process that speaks HTTP: ids, experiments and histories are here, everything else is asked of the engine process.

Started by the supervisor, with others that share the port; it ends when it is told to, or when the supervisor is gone.
"""

import json
import os
import signal
import sys

import structlog

from service.bootstrap import engines_at
from service.errors import ConfigurationError
from service.http.app import create_app
from service.http.server import Server
from service.processes.addresses import hold
from service.processes.heartbeat import ENVIRONMENT, Heart, until_lost
from service.settings import Settings
from service.telemetry.logging import configure_logging

log = structlog.get_logger()


def main() -> None:
    """Runs an HTTP process."""
    told = json.loads(os.environ.pop(ENVIRONMENT))
    settings, heart = Settings(**told["settings"]), Heart(told["heartbeat"])
    configure_logging(settings.log_level)

    def stop() -> None:
        log.error("supervisor_gone")
        os.kill(os.getpid(), signal.SIGTERM)

    async def ready() -> None:
        if app.service.link:
            await app.service.link.tell_ready()
        await until_lost(heart, stop)

    try:
        app = create_app(settings, engines_at(told["engine"]))
        # it listens once it can answer: the port is shared, and who comes before then belongs to the other processes
        with hold(settings.host, settings.port) as bound:
            Server(app, ready, settings.drain_s).run([bound])
    except ConfigurationError as error:
        heart.refuse(str(error))
        sys.exit(2)


if __name__ == "__main__":
    main()
