"""Open-loop load over HTTP/1.1: requests leave by a clock, not when replies come, so a slow service cannot hide.

Run as a process of its own: `python -m recall.bench.generator '<Load as JSON>'`. It says READY, begins when it is sent
a line, and ends with a `Sample` in MessagePack; several share a load that one cannot send (recall/bench/trials.py). A
latency counts from the moment the request was due, with whatever this process was late itself (`lag`); warm-up is left
out. Knows HTTP and nothing of recall but the bodies it makes.
"""

import asyncio
import json
import os
import resource
import ssl
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import cast

import httptools
import msgspec
import numpy as np

from recall.bench.traffic import Bodies, Load, Sample

TICK_S = 0.001
REFUSED = (429, 503, 504)
READY = b"ready\n"
MIN_CONNECTIONS = 16
PROBLEM, PARTIAL = b'"retryable":', 207  # of a refused member; counted as this status


class Connection(asyncio.Protocol):
    """One request at a time; httptools finds where an answer ends, nothing reads what it says."""

    def __init__(self, owner: "Generator") -> None:
        self.owner = owner
        self.due = self.sent = 0.0
        self.transport: asyncio.Transport
        self.received = 0  # bytes of the answer under way
        # calls the on_.. methods of this object, those that it has
        self.parser = httptools.HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transport is no subclass of asyncio's
        self.transport = cast(asyncio.Transport, transport)

    def send(self, due: float, request: bytes) -> None:
        self.due, self.sent, self.received = due, asyncio.get_running_loop().time(), 0
        self.transport.write(request)

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError:
            # what was asked on it is lost
            self.transport.close()

    def on_message_complete(self) -> None:
        self.owner.answered(self, self.parser.get_status_code(), self.received)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002
        self.owner.gone(self)


class BatchConnection(Connection):
    """Reads bodies too: a batch is answered with 200 even where members of it were refused."""

    def __init__(self, owner: "Generator") -> None:
        super().__init__(owner)
        self.parts: list[bytes] = []

    def on_body(self, body: bytes) -> None:
        self.parts.append(body)

    def on_message_complete(self) -> None:
        status, body = self.parser.get_status_code(), b"".join(self.parts)
        self.parts = []
        partial = status == 200 and PROBLEM in body
        self.owner.answered(self, PARTIAL if partial else status, self.received)


class Generator:
    """Sends by the clock over idle connections; a request that finds none waits, and its waiting counts."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.tls = ssl.create_default_context(cafile=load.ca) if load.is_tls else None
        self.idle: deque[Connection] = deque()  # they take turns, so that processes that share a port get like shares
        self.open: set[Connection] = set()
        self.waiting: deque[tuple[float, bytes]] = deque()
        self.latencies: list[float] = []
        self.refusals: list[float] = []  # how long each answer with 429, 503 or 504 took
        self.refusals_sent: list[float] = []  # the same from when each request was sent
        self.lags: list[float] = []
        self.statuses: Counter[int] = Counter()
        self.pending = self.received = 0
        self.measured_from = 0.0
        self.is_over = False
        self.drained = asyncio.Event()
        self.reconnecting: set[asyncio.Task[None]] = set()

    async def run(self, begin: Callable[[], object] = lambda: None) -> Sample:
        """begin: called once all is ready to be sent; the load begins when it returns."""
        load = self.load
        await self._connect()
        bodies, cpu = Bodies(load), 0.0
        # made before: a third more than are expected, since arrivals are random
        requests = deque(bodies.next() for _ in range(int(load.rate * (load.seconds + load.warmup_s) * 1.3) + 10))
        loop = asyncio.get_running_loop()
        begin()
        # a moment ahead: the first request may not be late because it was still being prepared
        start = loop.time() + 0.05
        self.measured_from, last = start + load.warmup_s, start + load.warmup_s + load.seconds
        num_measured = 0
        for offset in self._arrivals():
            due = start + offset
            if due >= last:
                break
            now = await _wait_until(due)
            if due >= self.measured_from:
                # making the bodies and the warm-up are not part of what a request costs
                cpu = cpu or _cpu_seconds()
                num_measured += 1
                self.lags.append(now - due)
            self._send(due, requests.popleft() if requests else bodies.next())
        spent = _cpu_seconds() - cpu
        if self.pending:
            self.drained.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self.drained.wait(), load.drain_s)
        self.is_over = True
        for connection in self.open:
            connection.transport.close()
        return self._report(num_measured, spent)

    async def _connect(self) -> None:
        # each is used every second or so: a service closes those that say nothing for long
        for _ in range(min(self.load.connections, max(MIN_CONNECTIONS, int(self.load.rate)))):
            await self._connect_one()

    async def _connect_one(self) -> None:
        loop = asyncio.get_running_loop()
        kind = BatchConnection if self.load.users_a_request > 1 else Connection
        _, connection = await loop.create_connection(lambda: kind(self), self.load.host, self.load.port, ssl=self.tls)
        self.open.add(connection)
        self._free(connection)

    def _free(self, connection: Connection) -> None:
        if self.waiting:
            connection.send(*self.waiting.popleft())
        else:
            self.idle.append(connection)

    def _arrivals(self) -> Iterator[float]:
        rng, now = np.random.default_rng(self.load.seed + 1), 0.0
        while True:
            for gap in rng.exponential(1 / self.load.rate, 4096).tolist():
                now += gap
                yield now

    def _send(self, due: float, request: bytes) -> None:
        self.pending += 1
        if self.idle:
            self.idle.popleft().send(due, request)
        else:
            self.waiting.append((due, request))

    def answered(self, connection: Connection, status: int, size: int) -> None:
        self.pending -= 1
        now, due = asyncio.get_running_loop().time(), connection.due
        if due >= self.measured_from:
            self.statuses[status] += 1
            self.received += size
            if status == 200:
                self.latencies.append(now - due)
            elif status in REFUSED:
                self.refusals.append(now - due)
                self.refusals_sent.append(now - connection.sent)
        if not self.pending:
            self.drained.set()
        self._free(connection)

    def gone(self, connection: Connection) -> None:
        """A connection that the service closed is replaced; what was asked on it is lost."""
        if self.is_over:
            return
        self.open.discard(connection)
        # one that was busy takes its request with it: that one stays pending, and counts as lost
        if connection in self.idle:
            self.idle.remove(connection)
        task = asyncio.get_running_loop().create_task(self._connect_one())
        self.reconnecting.add(task)
        task.add_done_callback(self.reconnecting.discard)

    def _report(self, num_measured: int, spent: float) -> Sample:
        statuses = {str(status): count for status, count in sorted(self.statuses.items())}
        return Sample(
            latencies_s=self.latencies,
            refusals_s=self.refusals,
            refusals_sent_s=self.refusals_sent,
            lags_s=self.lags,
            statuses=statuses,
            due=num_measured,
            cpu_s=spent,
            received_bytes=self.received,
        )


async def _wait_until(due: float) -> float:
    """The loop's time once it is at least `due`."""
    loop = asyncio.get_running_loop()
    while (now := loop.time()) < due:  # noqa: ASYNC110  (it waits for a clock, not for a flag)
        # a shorter sleep is none to uvloop: it would spin; `lag` tells what the tick costs
        await asyncio.sleep(max(TICK_S, due - now))
    return now


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def write_all(data: bytes) -> None:
    """Writes to standard output until nothing is left: after uvloop a write to a full pipe ends in its middle."""
    left = memoryview(data)
    while left:
        left = left[os.write(sys.stdout.fileno(), left) :]


def main(arguments: Sequence[str]) -> None:
    load = Load(**json.loads(arguments[0]))

    def begin() -> None:
        sys.stdout.buffer.write(READY)
        sys.stdout.flush()
        sys.stdin.readline()

    try:
        import uvloop

        sample = uvloop.run(Generator(load).run(begin))
    except ImportError:
        sample = asyncio.run(Generator(load).run(begin))
    write_all(msgspec.msgpack.encode(sample))


if __name__ == "__main__":
    main(sys.argv[1:])
