"""Kills the consumer (SIGKILL) at random points while events flow: `python -m benchmarks.consumer_kills --kills 20`.

A writer appends feedback and exposures to an embedded redis-server without a pause; the consumer is started, killed
after a random time, and started again; at last it is told to stop. Then each event must be one row.
"""

import argparse
import json
import random
import signal
import tempfile
import threading
import time
from pathlib import Path

import orjson
import polars as pl
from redis import Redis

from service.consumer.child import start_consumer
from service.consumer.limits import ConsumerLimits
from service.events.streams import EXPOSURES, FEEDBACK
from service.stores.embedded_redis import EmbeddedRedis

EXPOSURE = {
    **dict.fromkeys(("experiment", "phase", "config", "unit", "variation", "assigned", "served"), "x"),
    **{"reason": "experiment", "request_id": "r", "bundle": "b", "ts_ms": 1},
}
FEEDBACK_EVENT = {"user": "u", "item": 7, "action": "play", "ts_ms": 1, "watch_time_ms": 5}


class Writer(threading.Thread):
    """Appends numbered events until it is stopped."""

    def __init__(self, url: str, rate: float) -> None:
        super().__init__()
        self._client, self._rate = Redis.from_url(url, protocol=2), rate
        self._stopped = threading.Event()
        self.num_events = 0  # of each kind

    def run(self) -> None:
        started = time.monotonic()
        while not self._stopped.is_set():
            with self._client.pipeline(transaction=False) as pipe:
                for number in range(self.num_events, self.num_events + 20):
                    pipe.xadd(EXPOSURES, {"e": orjson.dumps(EXPOSURE | {"id": str(number)})})
                    pipe.xadd(FEEDBACK, {"e": orjson.dumps(FEEDBACK_EVENT | {"event_id": str(number)})})
                pipe.execute()
            self.num_events += 20
            time.sleep(max(0.0, started + self.num_events / self._rate - time.monotonic()))

    def stop(self) -> int:
        self._stopped.set()
        self.join()
        return self.num_events


def survive(num_kills: int, rate: float, longest_s: float, folder: Path) -> dict[str, float]:
    """The account of a run: events written, rows, rows that are there twice, events that are not there."""
    rng = random.Random(num_kills)
    with EmbeddedRedis(folder / "redis") as server:
        told = server.url, folder / "events", ConsumerLimits(interval_s=0.05), "warning"
        writer = Writer(server.url, rate)
        writer.start()
        for _ in range(num_kills):
            consumer = start_consumer(*told)
            time.sleep(rng.uniform(0.2 * longest_s, longest_s))
            consumer.send_signal(signal.SIGKILL)
            consumer.wait()
        num_events = writer.stop()
        consumer = start_consumer(*told)
        client = Redis.from_url(server.url, protocol=2)
        while client.xlen(FEEDBACK) or client.xlen(EXPOSURES):
            time.sleep(0.1)
        consumer.terminate()
        consumer.wait()
    account: dict[str, float] = {"kills": num_kills, "events_of_each_kind": num_events}
    for table, key in (("exposures", "id"), ("feedback", "event_id")):
        rows = pl.read_parquet(folder / "events" / table / "*" / "*.parquet")
        account |= {
            f"{table}_files": len([*(folder / "events" / table).glob("*/*.parquet")]),
            f"{table}_rows": rows.height,
            f"{table}_twice": rows.height - rows[key].n_unique(),
            f"{table}_lost": num_events - rows[key].n_unique(),
        }
    return account | {"dead": len([*(folder / "events").glob("dead/*/*")])}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--rate", type=float, default=2000, help="events of each kind a second")
    parser.add_argument("--longest-s", type=float, default=4.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(survive(options.kills, options.rate, options.longest_s, Path(folder))))


if __name__ == "__main__":
    main()
