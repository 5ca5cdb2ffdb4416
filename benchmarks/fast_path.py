"""Measures what the fast path of POST /recall (service/http/fast_path.py) saves: CPU time of the event loop a request.

Two applications over the same bundle, one of them without the fast path, are called as a server calls them, without
sockets and with vectors that are cached; the engines' own threads are not counted. They take turns, round after round,
so that noise meets both alike; of the rounds the tenth percentile counts, because load from elsewhere only adds.

    python -m benchmarks.fast_path --arm recgpt=bundles/recgpt
"""

import argparse
import asyncio
import json
import statistics
import time
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from service.engine_process import open_engines
from service.http.app import RecallApp
from service.http.observe import Observe
from service.settings import Settings
from service.telemetry.logging import configure_logging

BODY = json.dumps({"user_id": "u1", "history": [1, 2, 3], "top_n": 100}).encode()
SCOPE: dict[str, Any] = {
    "type": "http",
    "asgi": {"version": "3.0"},
    "http_version": "1.1",
    "method": "POST",
    "scheme": "http",
    "path": "/recall",
    "raw_path": b"/recall",
    "query_string": b"",
    "root_path": "",
    "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(BODY)).encode())],
    "client": ("127.0.0.1", 1),
    "server": ("127.0.0.1", 80),
}


class Routed(RecallApp):
    """The application as it would be if the framework's router answered every request."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await Observe(super(RecallApp, self).__call__, lambda: self.service.metrics)(scope, receive, send)


async def microseconds(app: ASGIApp, num_requests: int) -> float:
    """CPU time of this thread a request."""
    statuses: set[int] = set()

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": BODY, "more_body": False}

    async def send(message: MutableMapping[str, Any]) -> None:
        statuses.add(message.get("status", 200))

    started = time.thread_time()
    for _ in range(num_requests):
        await app({**SCOPE}, receive, send)
    spent = time.thread_time() - started
    if statuses != {200}:
        raise SystemExit(f"answered with the statuses {statuses}")
    return spent / num_requests * 1e6


async def measure(settings: Settings, rounds: int, num_requests: int) -> dict[str, list[float]]:
    """CPU microseconds a request of each round, by way."""
    apps = {"fast path": RecallApp(settings, open_engines), "router": Routed(settings, open_engines)}
    spent: dict[str, list[float]] = {name: [] for name in apps}
    async with apps["fast path"].router.lifespan_context(None), apps["router"].router.lifespan_context(None):
        for app in apps.values():
            await microseconds(app, num_requests)
        for _ in range(rounds):
            for name, app in apps.items():
                spent[name].append(await microseconds(app, num_requests))
    return spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm", required=True, help="NAME=BUNDLE")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--requests", type=int, default=50, help="of a round")
    options = parser.parse_args()
    configure_logging("warning")
    name, _, bundle = options.arm.partition("=")
    settings = Settings(arms={name: Path(bundle)}, redis_url="memory", device="cpu")
    spent = asyncio.run(measure(settings, options.rounds, options.requests))
    quiet = {way: statistics.quantiles(rounds, n=10) for way, rounds in spent.items()}
    for way, deciles in quiet.items():
        print(f"{way:10} {deciles[0]:6.1f} us a request  (median {deciles[4]:.1f})")
    print(f"saved      {quiet['router'][0] - quiet['fast path'][0]:6.1f} us a request")


if __name__ == "__main__":
    main()
