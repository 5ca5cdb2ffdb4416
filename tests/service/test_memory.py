"""A serving process keeps its memory: cycles go soon, however few objects there are, and all threads share one heap."""

import asyncio
import ctypes
import gc
import os
import re
import subprocess
import sys
import weakref

import pytest

from service.memory import keep_tidy, let_go

needs_glibc = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="malloc_info is glibc's")
THREADS = """
import ctypes, sys, threading
from service.memory import share_heap

share_heap()
together = threading.Barrier(4)

def allocate():
    together.wait()
    kept = [bytes(1000) for _ in range(1000)]
    together.wait()

threads = [threading.Thread(target=allocate) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.fopen.restype = ctypes.c_void_p
libc.malloc_info(0, ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w")))
libc.fflush(None)
"""


class Node:
    """An object that can be in a cycle."""

    def __init__(self):
        self.itself = self


@pytest.fixture
def no_thresholds():
    """The collector finds nothing by itself, as in a service that is not asked for long."""
    gc.collect()
    before = gc.get_threshold()
    gc.set_threshold(10**9)
    yield
    gc.set_threshold(*before)


def heaps(**variables):
    """How many heaps four threads made in a process of their own."""
    told = subprocess.run(
        [sys.executable, "-c", THREADS],
        env={name: value for name, value in os.environ.items() if name != "MALLOC_ARENA_MAX"} | variables,
        capture_output=True,
        text=True,
        check=True,
    )
    return len(re.findall(r"<heap nr=", told.stdout))


@needs_glibc
def test_all_threads_share_one_heap():
    assert heaps() == 1


@needs_glibc
def test_the_operator_s_number_of_heaps_stays():
    assert heaps(MALLOC_ARENA_MAX="8") > 1


def tidied(seen, **times):
    """True where a cycle is gone after some rounds."""

    async def main():
        tidying = asyncio.create_task(keep_tidy(**times))
        for _ in range(100):
            await asyncio.sleep(0.005)
            if seen() is None:
                break
        tidying.cancel()
        return seen() is None

    return asyncio.run(main())


def test_a_new_cycle_goes_with_the_next_young_collection(no_thresholds):
    seen = weakref.ref(Node())
    assert tidied(seen, young_s=0.01, whole_s=3600)


def test_an_old_cycle_goes_with_the_next_whole_collection(no_thresholds):
    node = Node()
    gc.collect()
    seen = weakref.ref(node)
    del node
    assert not tidied(seen, young_s=0.01, whole_s=3600)
    assert tidied(seen, young_s=0.01, whole_s=0.0)


def test_letting_go_freezes_nothing(no_thresholds):
    node = Node()
    seen, before = weakref.ref(node), gc.get_freeze_count()
    del node
    let_go()
    assert seen() is None
    assert gc.get_freeze_count() == before
