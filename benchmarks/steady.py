"""Clients that ask a service at a fixed rate, and what came of every request, while something is done to the service.

Each client has one connection, which it keeps while the service does. One that the service has closed while it was idle
is opened anew before the next request, as every HTTP client does; so what is lost was lost with a request under way.
A request that got no 200 is kept as a `Miss`, with what came instead.
"""

import asyncio
import json
import os
import platform
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import psutil

from recall.bench.target import Target

LAYOUTS: dict[str, tuple[str, ...]] = {"one process": (), "2 HTTP processes": ("--http-workers", "2")}
GOOD = (200, 202)  # the second is that of feedback
LIMIT_S = 60.0  # for one answer; later than that it is none
KEY = "only-here"  # the admin key of a service that a study starts
MAX_SHOWN = 50  # requests without a 200 in a row
CLOSE = b"\r\nconnection: close\r\n"
Body = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Miss:
    """A request that got no 200 (202 of feedback), and what came instead."""

    path: str
    status: int | None  # None: no whole answer came
    said: str  # code and sentence of the answer, or the exception
    after_ms: float  # from the request until this came
    connection_s: float  # age of its connection
    asked_before: int  # on the same connection
    at_s: float  # since the load began
    moment: str  # what was being done to the service when it was asked ..
    ended_in: str  # .. and when this came

    def to_json(self) -> dict[str, Any]:
        """The record, floats rounded."""
        return {name: round(value, 2) if isinstance(value, float) else value for name, value in asdict(self).items()}


async def read_message(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """(head, body) of a whole request or answer; one that names no length has no body. Raises EOFError and OSError."""
    head = await reader.readuntil(b"\r\n\r\n")
    size = head.lower().partition(b"\r\ncontent-length: ")[2].split(b"\r")[0]
    return head, await reader.readexactly(int(size or 0))


class Connection:
    """One kept-alive connection of a client. Its methods raise OSError and EOFError."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self.opened_at = time.monotonic()
        self.num_asked = 0

    @classmethod
    async def open(cls, host: str, port: int) -> "Connection":
        return cls(*await asyncio.open_connection(host, port))

    @property
    def is_over(self) -> bool:
        """True where the service has closed it, or will."""
        return self._reader.at_eof() or self._writer.is_closing()

    async def ask(self, path: str, body: Body, headers: bytes = b"") -> tuple[int, dict[str, Any]]:
        """(status, the JSON that came with it). headers: further lines, each with its end."""
        data = orjson.dumps(body)
        head, answer = await self.exchange(
            b"POST %s HTTP/1.1\r\nhost: x\r\n%scontent-length: %d\r\n\r\n%s" % (path.encode(), headers, len(data), data)
        )
        return int(head[9:12]), orjson.loads(answer)

    async def exchange(self, request: bytes) -> tuple[bytes, bytes]:
        """(head, body) of the answer to a whole request; closes where the answer says so."""
        self.num_asked += 1
        self._writer.write(request)
        head, body = await read_message(self._reader)
        if CLOSE in head.lower():
            self.close()
        return head, body

    def close(self) -> None:
        self._writer.close()


@dataclass
class SteadyLoad:
    """Requests at a fixed rate over some clients; answers with 200 are handed on, all others kept."""

    target: Target
    todo: Iterator[tuple[str, Body]]  # path and body of each request
    rate: float  # requests a second
    take: Callable[[Body, dict[str, Any]], None]  # gets the body and the answer of each that is good
    num_clients: int = 16
    moment: str = "before"  # what is being done to the service; whoever does it says so
    num_asked: int = 0
    num_reopened: int = 0
    misses: list[Miss] = field(default_factory=list)
    latencies_ms: list[float] = field(default_factory=list)  # from when a request was due
    _began_at: float = 0.0
    _is_over: bool = False

    @asynccontextmanager
    async def sending(self) -> AsyncIterator[None]:
        """Sends while the context lasts; then waits for what is under way."""
        self._began_at = time.monotonic()
        clients = [asyncio.create_task(self._work(number)) for number in range(self.num_clients)]
        try:
            yield
        finally:
            self._is_over = True
            await asyncio.gather(*clients)

    async def _work(self, number: int) -> None:
        """One client; a request that is late leaves at once, and its latency counts from when it was due."""
        interval = self.num_clients / self.rate
        due = time.monotonic() + interval * number / self.num_clients
        connection: Connection | None = None
        while not self._is_over:
            await asyncio.sleep(due - time.monotonic())
            if connection and connection.is_over:
                connection.close()
                connection = None
                self.num_reopened += 1
            connection = await self._ask(connection, due)
            due = max(due + interval, time.monotonic() - interval)
        if connection:
            connection.close()

    async def _ask(self, connection: Connection | None, due: float) -> Connection | None:
        """Asks once; the connection where it can be used again."""
        self.num_asked += 1
        asked_at, moment = time.monotonic(), self.moment
        path, body = next(self.todo)
        status, said = None, ""
        try:
            async with asyncio.timeout(LIMIT_S):
                connection = connection or await Connection.open(self.target.host, self.target.port)
                status, answer = await connection.ask(path, body)
            if status in GOOD:
                self.latencies_ms.append(1e3 * (time.monotonic() - due))
                self.take(body, answer)
                return connection
            said = f"{answer.get('code')}: {answer.get('message')}"
        except (OSError, EOFError, TimeoutError) as error:
            said = repr(error)
        now = time.monotonic()
        self.misses.append(
            Miss(
                path=path,
                status=status,
                said=said,
                after_ms=1e3 * (now - asked_at),
                connection_s=now - connection.opened_at if connection else 0.0,
                asked_before=connection.num_asked - 1 if connection else 0,
                at_s=asked_at - self._began_at,
                moment=moment,
                ended_in=self.moment,
            )
        )
        if status is None and connection:
            connection.close()
            return None
        return connection


def where_and_when() -> dict[str, str]:
    """The machine and the date of a row."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "machine": f"{os.cpu_count()} cores, {platform.machine()}, load {os.getloadavg()[0]:.1f}",
    }


def add_row(row: Mapping[str, Any], output: Path | None) -> None:
    """Prints a row as one line of JSON, and adds it to a file of such lines where one is given."""
    line = json.dumps(row)
    if output:
        with output.open("a", encoding="utf-8") as rows:
            rows.write(line + "\n")
    print(line, flush=True)


def processes_of(target: Target) -> list[psutil.Process]:
    """The service and the processes that it started, without redis-server and what watches it."""
    whole = psutil.Process(target.pid)
    started = list[psutil.Process]()
    with suppress(psutil.Error):
        started = [child for child in whole.children(recursive=True) if "python" in child.name()]
    return [whole, *started]
