"""A thread that computes for a loop: results and failures come back, and one that hangs or dies is left behind."""

import asyncio
import threading

import pytest

from service.scheduling.threads import ComputeThread, JobFailed, ThreadLost, WatchedThread

HANG_S = 20


def run(main):
    return asyncio.run(asyncio.wait_for(main(), HANG_S))


def test_jobs_are_done_in_order_in_one_thread_that_is_no_obstacle_to_the_end_of_the_process():
    async def main():
        thread = ComputeThread("one")
        jobs = [thread.run(lambda n=n: (n, threading.current_thread())) for n in range(20)]
        results = await asyncio.gather(*jobs)
        thread.end()
        return [n for n, _ in results], {worker for _, worker in results}

    order, workers = run(main)
    assert order == list(range(20))
    assert [worker.daemon for worker in workers] == [True]


def test_a_failure_is_the_jobs_own_and_the_thread_lives_on():
    async def main():
        thread = ComputeThread("one")
        with pytest.raises(JobFailed) as failure:
            await thread.run(lambda: 1 / 0)
        return type(failure.value), type(failure.value.__cause__), await thread.run(lambda: 1)

    assert run(main) == (JobFailed, ZeroDivisionError, 1)


def test_a_job_for_an_ended_thread_fails():
    async def main():
        thread = ComputeThread("one")
        thread.end()
        with pytest.raises(ThreadLost):
            await thread.run(lambda: 1)

    run(main)


def watched(stall_s):
    return WatchedThread("one", lambda: None, stall_s)


def test_a_thread_that_hangs_is_replaced_and_what_it_still_brings_is_thrown_away():
    async def main():
        gate, thread = threading.Event(), watched(1.0)
        stuck = thread.run(lambda: gate.wait(HANG_S))
        reasons = [thread.look(0.5) for _ in range(4)]
        outcome = (await asyncio.gather(stuck, return_exceptions=True))[0]
        after = await thread.run(lambda: "fresh")
        gate.set()
        return reasons, outcome, after

    reasons, outcome, after = run(main)
    assert [bool(reason) for reason in reasons] == [False, False, True, False]
    assert "hangs" in reasons[2]
    assert isinstance(outcome, ThreadLost)
    assert after == "fresh"


def test_a_thread_that_works_is_left_alone_however_long_it_is_looked_at():
    async def main():
        thread, reasons = watched(1.0), []
        for _ in range(20):
            await thread.run(lambda: None)
            reasons.append(thread.look(0.9))
        return reasons

    assert run(main) == [None] * 20


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_died_is_replaced_at_once():
    def die():
        raise SystemExit

    async def main():
        thread = watched(60)
        lost = thread.run(die)
        while not (reason := thread.look(0.1)):  # noqa: ASYNC110  (bounded by `run`)
            await asyncio.sleep(0.01)
        outcome = (await asyncio.gather(lost, return_exceptions=True))[0]
        return reason, type(outcome), await thread.run(lambda: "fresh")

    assert run(main) == ("the thread one died", ThreadLost, "fresh")
