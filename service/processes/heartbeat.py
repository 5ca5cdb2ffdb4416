"""The heartbeat between a process and the one that supervises it: bytes in a pipe, from the event loop that works.

A process whose event loop stands still sends none, whatever its threads do; one whose supervisor is gone finds the pipe
closed. The first byte says that the process is ready; a sentence after `!` says why it could not be.
"""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress

ENVIRONMENT = "RECALL_PROCESS"  # settings, address of the engine, heartbeat: for a process of ours, as JSON
BEAT_S = 0.25
BEAT, REFUSED = b".", b"!"
MAX_BYTES = 4096


class Heart:
    """The end of a process that is supervised."""

    def __init__(self, pipe: int) -> None:
        """pipe: the file descriptor that the supervisor gave."""
        self._pipe = pipe
        os.set_blocking(pipe, False)

    async def beat(self) -> None:
        """Beats until the supervisor is gone."""
        while self._send(BEAT):  # noqa: ASYNC110  (a pace, no event)
            await asyncio.sleep(BEAT_S)

    def refuse(self, sentence: str) -> None:
        """Tells the reason why this process cannot serve."""
        self._send(REFUSED + sentence.encode()[: MAX_BYTES - 1])

    def _send(self, data: bytes) -> bool:
        try:
            os.write(self._pipe, data)
        except BlockingIOError:
            # nobody reads just now: the pipe is full of beats
            return True
        except OSError:
            return False
        return True


class Pulse:
    """The end of the supervisor: what it heard of one process."""

    def __init__(self) -> None:
        self._reader, self.writer = os.pipe()
        os.set_blocking(self._reader, False)
        self.is_ready = False
        self.refusal: str | None = None
        self.silent_s = 0.0

    def look(self, step_s: float) -> None:
        """Reads what came; called every `step_s`, in which silence is counted, so that a machine that stands still does
        not look like a process that hangs."""
        self.silent_s += step_s
        with suppress(OSError):
            while data := os.read(self._reader, MAX_BYTES):
                self.is_ready = self.is_ready or data.startswith(BEAT)
                self.silent_s = 0.0
                if REFUSED in data:
                    self.refusal = data.partition(REFUSED)[2].decode(errors="replace")

    def forgive(self) -> None:
        """Counts silence anew: something was done about it."""
        self.silent_s = 0.0

    def close_writer(self) -> None:
        """Once the process has it: the pipe ends with the process."""
        os.close(self.writer)

    def close(self) -> None:
        os.close(self._reader)


async def until_lost(heart: Heart, on_loss: Callable[[], None]) -> None:
    """Beats, and calls `on_loss` when the supervisor is gone."""
    await heart.beat()
    on_loss()
