"""A chain at one batch size, with pinned buffers, a stream and, on CUDA, a graph of its own.

A lane answers one batch at a time: fill, start, wait. Copies both ways are part of the graph, so a batch is one launch;
the interpreter's lock is free while the device works.
"""

from typing import Any

import numpy as np
import torch

from model.columns import Columns
from model.compiled import capturing
from model.device.chain import Chain
from model.device.layout import Answers, fill

WARM_RUNS = 2


class Lane:
    """Belongs to one thread at a time."""

    def __init__(self, chain: Chain, size: int) -> None:
        self.chain, self.size = chain, size
        self.device = chain.table.items.device
        on_card = self.device.type == "cuda"
        self._given = torch.zeros(size, chain.layout.width, dtype=torch.int32, device=self.device)
        num_bytes = chain.shape.num_bytes(size)
        self._written = torch.zeros(num_bytes, dtype=torch.uint8, device=self.device)
        self._asked = torch.zeros(self._given.shape, dtype=torch.int32, pin_memory=on_card)
        self._answered = torch.zeros(num_bytes, dtype=torch.uint8, pin_memory=on_card)
        self._views = chain.shape.views(size, self._written)
        self._bytes: np.ndarray[Any, np.dtype[np.uint8]] = self._answered.numpy()
        self._answers = Answers(*(part.numpy() for part in chain.shape.views(size, self._answered)))
        self._places = chain.shape.places(size)
        self._matrix: np.ndarray[Any, np.dtype[np.int32]] = self._asked.numpy()
        # empty histories: an answer to them is as sound as any
        self.fill(Columns.of([], [], []))
        if on_card:
            self._stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            self._graph = self._capture()

    def fill(self, columns: Columns) -> None:
        """Raises ValueError for rows outside the catalogue."""
        fill(self._matrix, self.chain.layout, columns)

    def start(self) -> None:
        """Begins to answer what was filled in; returns at once."""
        if self.device.type != "cuda":
            self._run()
            return
        with torch.cuda.stream(self._stream):
            self._graph.replay()

    def wait(self) -> Answers:
        """The answers of all places, valid until the lane is started again."""
        if self.device.type == "cuda":
            self._stream.synchronize()
        return self._answers

    def copied(self, users: int) -> Answers:
        """The answers of the first users, copied in one piece once they are there."""
        self.wait()
        buffer, parts = self._bytes.copy(), zip(self._places, self._answers._asdict().values(), strict=True)
        return Answers._make(buffer[place].view(own.dtype).reshape(own.shape)[:users] for place, own in parts)

    def _run(self) -> None:
        self._given.copy_(self._asked, non_blocking=True)
        self.chain.run(self._given, self._views)
        self._answered.copy_(self._written, non_blocking=True)

    def _capture(self) -> torch.cuda.CUDAGraph:
        # the buffers were zeroed on the current stream
        self._stream.wait_stream(torch.cuda.current_stream())
        # kernels are compiled, and libraries choose theirs, in first calls: not while capturing
        with torch.cuda.stream(self._stream):
            for _ in range(WARM_RUNS):
                self._run()
        self._stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with capturing(graph, self._stream):
            self._run()
        return graph
