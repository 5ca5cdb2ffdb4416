"""A proxy before several replicas: asks each for /ready, and sends requests to those that are.

Connections to the replicas are kept, and given up where an answer says so. A request is sent once: one that is lost
with its connection is lost to the client, as with proxies that repeat no POST.
"""

import asyncio
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field

from benchmarks.steady import Connection, read_message

LOOK_S, LIMIT_S = 0.1, 5.0
HOST = "127.0.0.1"


@dataclass
class Replica:
    """A service behind the proxy."""

    port: int
    is_ready: bool = False
    statuses: list[bytes] = field(default_factory=list)  # of /ready, each time that it changed
    _kept: deque[Connection] = field(default_factory=deque)

    async def look(self) -> None:
        """Asks whether it is ready, on a connection of its own."""
        try:
            async with asyncio.timeout(LIMIT_S):
                connection = await Connection.open(HOST, self.port)
                head, _ = await connection.exchange(b"GET /ready HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
                connection.close()
                status = head[9:12]
        except TimeoutError:
            # slow is not gone: on a machine that others use the one look says nothing
            return
        except (OSError, EOFError):
            status = b"none"
        self.is_ready = status == b"200"
        if self.statuses[-1:] != [status]:
            self.statuses.append(status)

    async def ask(self, request: bytes) -> bytes:
        """Its answer. Raises EOFError and OSError where there is none."""
        while self._kept and self._kept[0].is_over:
            self._kept.popleft().close()
        connection = self._kept.popleft() if self._kept else await Connection.open(HOST, self.port)
        head, body = await connection.exchange(request)
        if not connection.is_over:
            self._kept.append(connection)
        return head + body


class Balancer:
    """Listens on a port of this machine, in a thread of its own: `with Balancer(8081, 8082) as proxy: proxy.port`."""

    def __init__(self, *ports: int) -> None:
        self.replicas = [Replica(port) for port in ports]
        self.port = 0
        self._is_open = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Balancer":
        self._thread.start()
        if not self._is_open.wait(10):
            raise RuntimeError("the proxy did not open its port")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        looks = [self._loop.create_task(self._look(replica)) for replica in self.replicas]
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, HOST, 0))
        self.port = server.sockets[0].getsockname()[1]
        self._loop.run_forever()
        server.close()
        # the looks, and the clients that are still there
        tasks = {*looks, *asyncio.all_tasks(self._loop)}
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _look(self, replica: Replica) -> None:
        while True:
            await replica.look()
            if all(other.statuses for other in self.replicas):
                self._is_open.set()
            await asyncio.sleep(LOOK_S)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answers one client, replica after replica in turns; a request that no replica answers ends its connection."""
        # at the end of the proxy a client may still be there
        with suppress(OSError, EOFError, asyncio.CancelledError):
            while True:
                request = b"".join(await read_message(reader))
                ready = [replica for replica in self.replicas if replica.is_ready] or self.replicas
                self.replicas.append(self.replicas.pop(0))
                writer.write(await ready[0].ask(request))
        writer.close()
