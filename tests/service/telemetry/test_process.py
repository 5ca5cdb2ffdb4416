"""The process's own metrics: what they tell follows what the process does."""

import asyncio
import socket

from service.telemetry.process import ProcessCollector


def read(collector):
    return {sample.name: sample.value for metric in collector.collect() for sample in metric.samples}


def test_tasks_and_descriptors_are_counted_and_gone_again():
    async def main():
        collector = ProcessCollector("engine", asyncio.get_running_loop())
        before = read(collector)
        waiting = asyncio.create_task(asyncio.sleep(60))
        with socket.socket():
            during = read(collector)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        return before, during, read(collector)

    before, during, after = asyncio.run(main())
    for name in ("recall_process_tasks", "recall_process_open_fds"):
        assert (during[name] - before[name], after[name] - before[name]) == (1, 0)
    assert before["recall_process_resident_bytes"] > 2**20
    assert after["recall_process_cpu_seconds_total"] >= before["recall_process_cpu_seconds_total"] > 0
