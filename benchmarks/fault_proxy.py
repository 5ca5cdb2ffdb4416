"""A TCP proxy before Redis that spoils what comes back: late, in single bytes, reset, cut in mid-reply, or not at all.

It runs in a thread of its own, and a fault can be changed while connections are open.
"""

import asyncio
import socket
import struct
import threading
from collections.abc import Awaitable, Callable
from enum import StrEnum


class Fault(StrEnum):
    """The ways to spoil a reply."""

    NONE = "none"
    DELAY = "delay"  # DELAY_S late
    SLICE = "slice"  # one byte a packet
    RESET = "reset"  # the connection is reset in its place
    CUT = "cut"  # half of it, then the end
    SILENCE = "silence"  # nothing, and the connection stays


DELAY_S, CHUNK = 0.03, 65536


class FaultProxy:
    """Listens on a port of this machine: `with FaultProxy(path_of_the_unix_socket) as proxy: proxy.set(Fault.CUT)`."""

    def __init__(self, upstream: str) -> None:
        """upstream: the path of a Redis's unix socket."""
        self._upstream = upstream
        self.fault = Fault.NONE
        self.port = 0
        self.num_spoilt = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._is_open = threading.Event()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def set(self, fault: Fault) -> None:
        self.fault = fault

    def __enter__(self) -> "FaultProxy":
        self._thread.start()
        if not self._is_open.wait(10):
            raise RuntimeError("the proxy did not open its port")
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join(10)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    async def _serve(self) -> None:
        self._stopping = asyncio.Event()
        tasks: set[asyncio.Task[None]] = set()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.ensure_future(self._relay(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        self._is_open.set()
        await self._stopping.wait()
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            from_redis, to_redis = await asyncio.open_unix_connection(self._upstream)
        except OSError:
            writer.close()
            return

        async def back(data: bytes) -> bool:
            return await self._spoil(writer, data)

        async def forth(data: bytes) -> bool:
            to_redis.write(data)
            await to_redis.drain()
            return True

        ways = [asyncio.ensure_future(pump(reader, forth)), asyncio.ensure_future(pump(from_redis, back))]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            to_redis.close()
            writer.close()

    async def _spoil(self, writer: asyncio.StreamWriter, data: bytes) -> bool:
        """Sends a reply on as the fault has it; False where the connection ends with it."""
        fault = self.fault
        self.num_spoilt += fault is not Fault.NONE
        if fault is Fault.RESET:
            # the linger time of 0 makes the end a reset
            linger = struct.pack("ii", 1, 0)
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            return False
        if fault is Fault.SILENCE:
            return True
        if fault is Fault.DELAY:
            await asyncio.sleep(DELAY_S)
        step = 1 if fault is Fault.SLICE else len(data)
        for start in range(0, len(data) // 2 if fault is Fault.CUT else len(data), step):
            writer.write(data[start : start + step])
            await writer.drain()
            if fault is Fault.SLICE:
                await asyncio.sleep(0)
        return fault is not Fault.CUT


async def pump(reader: asyncio.StreamReader, send: Callable[[bytes], Awaitable[bool]]) -> None:
    """Hands on what comes, until either side ends."""
    try:
        while data := await reader.read(CHUNK):
            if not await send(data):
                return
    except OSError:
        return
