"""Memory of a process that serves for weeks: one heap, garbage soon gone, pages handed back, what was loaded let be.

Requests leave no cycles behind, but trouble does: an exception holds its frames, and these the future that holds the
exception; a bundle that was refused, a connection that broke. The collector's own thresholds, which keep it off the
requests, would let that lie until 50,000 objects have come together, and the memory between it with them.
"""

import asyncio
import contextlib
import ctypes
import gc
import os
import time

COLLECTOR = (50_000, 20, 20)  # thresholds of the garbage collector's generations
YOUNG_S, WHOLE_S = 10.0, 30.0  # between collections of what is new, and of all that is not frozen
MAX_SHARE = 5e-4  # of the time, for these and for handing pages back; a full cache of 126,000 entries takes 21 ms
ARENA_MAX = -8  # M_ARENA_MAX of malloc.h


def share_heap() -> None:
    """Has all threads allocate from one heap; to be called before they start.

    Of its own accord the C library gives up to eight heaps a core to the threads, and each thread that has loaded a
    bundle leaves holes in another: 60 swaps of 3,000 items left 6 MB in one heap and 9 in two; 30 left 18 in twelve.
    """
    # whoever sets the variable has decided, and other libraries have no such function
    if "MALLOC_ARENA_MAX" not in os.environ:
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).mallopt(ARENA_MAX, 1)


def freeze_loaded() -> None:
    """Keeps the garbage collector off what was loaded: it lives as long as the process."""
    gc.collect()
    gc.freeze()
    # requests leave no cycles behind: looking for them every 700 objects is a pause in every other batch
    gc.set_threshold(*COLLECTOR)


def release_memory() -> None:
    """Hands what was used and freed back to the system; the C library would keep it."""
    # glibc alone has it
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)


def let_go() -> None:
    """Frees what an old release and the loading of a new one left behind, and hands it back to the system."""
    # loading leaves cycles that hold the network. Nothing is frozen anew: what is under way now is soon garbage, and
    # frozen garbage is never found
    gc.collect()
    release_memory()


async def keep_tidy(young_s: float = YOUNG_S, whole_s: float = WHOLE_S) -> None:
    """Collects garbage and hands pages back now and then, until it is cancelled. One a process, in its event loop.

    A collection of all stops every thread for as long as it takes, and the heap is locked while pages are handed back:
    the longer both take, the more rarely they come.
    """
    next_whole = time.monotonic() + whole_s
    while True:
        await asyncio.sleep(young_s)
        if time.monotonic() < next_whole:
            gc.collect(1)
            continue
        began = time.perf_counter()
        gc.collect()
        # other threads go on meanwhile, as long as they ask for no memory: the heap is locked
        await asyncio.to_thread(release_memory)
        took_s = time.perf_counter() - began
        next_whole = time.monotonic() + max(whole_s, took_s / MAX_SHARE)
