"""A thread that computes for an event loop, one job at a time, and can be left behind where it hangs.

A pool of the standard library waits for its threads when the process ends: one that hangs would hold a stopping service
for ever. This thread is a daemon. Whoever watches it asks for how long the job under way has been seen, and abandons
it: the job's caller is told, and what the thread still brings is thrown away.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Generic, TypeVar

IDLE = -1
T = TypeVar("T")


class JobFailed(Exception):  # noqa: N818 - named for what it says
    """A job has no result; what it raised is the cause."""

    def __init__(self, sentence: str, cause: Exception | None = None) -> None:
        super().__init__(sentence)
        self.__cause__ = cause


class ThreadLost(JobFailed):
    """The job's thread hangs or has died; the sentence says which."""


@dataclass(frozen=True, eq=False)
class _Job(Generic[T]):
    work: Callable[[], T]
    answer: "asyncio.Future[T]"

    def succeed(self, result: T) -> None:
        if not self.answer.done():
            self.answer.set_result(result)

    def fail(self, error: JobFailed) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class ComputeThread:
    """Runs jobs in the order given. Belongs to the event loop that gives them."""

    def __init__(self, name: str, prepare: Callable[[], None] = lambda: None) -> None:
        """prepare: runs first, in the thread. The thread starts with the first job."""
        self._prepare = prepare
        self._jobs: SimpleQueue[_Job[object] | None] = SimpleQueue()
        self._under_way: set[_Job[object]] = set()  # given and not answered; of this loop's thread alone
        self._is_ended = False
        self.num_given = self.num_finished = 0  # the first counted by the loop, the second by the thread
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def is_dead(self) -> bool:
        """True where the thread has ended although it was not told to."""
        return self._thread.ident is not None and not self._thread.is_alive()

    def run(self, work: Callable[[], T]) -> "asyncio.Future[T]":
        """The result of `work`. Raises JobFailed where it raises, ThreadLost where the thread is abandoned."""
        job = _Job(work, asyncio.get_running_loop().create_future())
        if self._is_ended:
            job.fail(ThreadLost("the thread has ended"))
            return job.answer
        self._under_way.add(job)
        self.num_given += 1
        job.answer.add_done_callback(lambda _: self._under_way.discard(job))
        # started with the first job: an engine that is built and never asked owns no thread
        if self._thread.ident is None:
            self._thread.start()
        self._jobs.put(job)
        return job.answer

    def abandon(self, why: str) -> None:
        """Fails the jobs under way with ThreadLost; the thread ends by itself once it is free, if ever."""
        for job in [*self._under_way]:
            job.fail(ThreadLost(why))
        self.end()

    def end(self) -> None:
        """Lets the thread end after the jobs it has; does not wait for it. Later jobs fail."""
        self._is_ended = True
        self._jobs.put(None)

    def _run(self) -> None:
        self._prepare()
        while job := self._jobs.get():
            try:
                result = job.work()
            # the boundary of the thread: whatever broke, the caller must hear of it
            except Exception as error:  # noqa: BLE001
                self.num_finished += 1
                self._tell(job, job.fail, JobFailed(repr(error), error))
            else:
                self.num_finished += 1
                self._tell(job, job.succeed, result)
            del job  # the last job would keep its batch alive

    @staticmethod
    def _tell(job: _Job[object], how: Callable[..., None], outcome: object) -> None:
        # a loop that is closed has nobody who waits
        with suppress(RuntimeError):
            job.answer.get_loop().call_soon_threadsafe(how, outcome)


class WatchedThread:
    """A compute thread that is replaced by a fresh one where it hangs or has died."""

    def __init__(self, name: str, prepare: Callable[[], None], stall_s: float) -> None:
        """stall_s: a job that is longer under way hangs."""
        self._name, self._prepare, self._stall_s = name, prepare, stall_s
        self._thread = ComputeThread(name, prepare)
        self._seen = IDLE  # the number of the job that was under way when it was last looked at
        self._seen_s = 0.0  # for how long the job under way has been seen

    def run(self, work: Callable[[], T]) -> "asyncio.Future[T]":
        """The result of `work`. Raises JobFailed where it raises, ThreadLost where its thread is replaced meanwhile."""
        return self._thread.run(work)

    def look(self, step_s: float) -> str | None:
        """Called every `step_s`; the reason where the thread was found hanging or dead, and replaced.

        Counted in steps of whoever looks, so that a machine that stands still does not look like a thread that hangs.
        A job that the thread has finished and the event loop has not yet heard of is no hanging one.
        """
        num_finished = self._thread.num_finished
        # jobs run in order, so their number names the one under way
        job = num_finished if num_finished < self._thread.num_given else IDLE
        self._seen_s = self._seen_s + step_s if job == self._seen != IDLE else 0.0
        self._seen = job
        if self._thread.is_dead:
            return self._replace(f"the thread {self._name} died")
        if self._seen_s >= self._stall_s:
            return self._replace(f"the thread {self._name} hangs: one batch for more than {self._stall_s:g} s")
        return None

    def end(self) -> None:
        """Lets the thread end after the job that it has, if that ends; does not wait for it."""
        self._thread.end()

    def _replace(self, why: str) -> str:
        lost, self._thread = self._thread, ComputeThread(self._name, self._prepare)
        self._seen, self._seen_s = IDLE, 0.0
        # last: its callers are told when a fresh thread already takes jobs
        lost.abandon(why)
        return why
