"""Reports of experiments on request: each made by a process of its own, one at a time.

A report reads the whole event log with polars and SciPy, which the processes that answer requests do not load. Knows
the request and how a process ends; service/experiments/report makes the report.
"""

import asyncio
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import structlog

from service.errors import BadStatistics, DeadlineExceeded, NoEventLog, Overloaded, Unavailable
from service.subprocesses import child_environment, module_command

ENVIRONMENT = "RECALL_REPORT"
REFUSED, CANNOT = 2, 3  # statuses of the process
TIMEOUT_S = 60.0
ONE_THREAD = {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
log = structlog.get_logger()


class ReportRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The wish for a report."""

    folder: str  # of the event log
    key: str
    experiments: str  # the file with the planned shares
    primary: str = "plays"
    as_json: bool = False
    settings: Mapping[str, Any] = {}  # of each arm


class ReportMaker:
    """Makes the reports of one process. Belongs to one event loop."""

    def __init__(self, timeout_s: float = TIMEOUT_S) -> None:
        self._timeout_s = timeout_s
        self._is_busy = False

    async def make(self, request: ReportRequest) -> bytes:
        """The page, or JSON.

        Raises NoEventLog where there is none, BadStatistics where it holds no such experiment, Overloaded while another
        report is made, DeadlineExceeded after `timeout_s`, Unavailable where this installation makes none.
        """
        if not (Path(request.folder) / "exposures").is_dir():
            raise NoEventLog(
                f"no event log lies in {request.folder} yet: what comes first is written after half a minute; where a "
                "consumer writes it elsewhere, ask it there with `recall experiment report`; with Redis in memory "
                "there is none"
            )
        if self._is_busy:
            raise Overloaded("another report is being made; try again")
        self._is_busy = True
        try:
            return await self._run(request)
        finally:
            self._is_busy = False

    async def _run(self, request: ReportRequest) -> bytes:
        environment = child_environment(**ONE_THREAD, **{ENVIRONMENT: msgspec.json.encode(request).decode()})
        command = module_command("service.experiments.report.process")
        process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=PIPE, stderr=PIPE)
        try:
            async with asyncio.timeout(self._timeout_s):
                report, sentence = await process.communicate()
        except TimeoutError as error:
            raise DeadlineExceeded(f"the report took longer than {self._timeout_s:g} s") from error
        finally:
            await _end(process)
        if process.returncode == REFUSED:
            raise BadStatistics(sentence.decode())
        if process.returncode == CANNOT:
            raise Unavailable(sentence.decode())
        if process.returncode:
            log.error("report_failed", status=process.returncode, error=sentence.decode(errors="replace")[-500:])
            raise Unavailable("the report could not be made")
        return report


async def _end(process: Process) -> None:
    """Ends a process whose report nobody waits for any more."""
    if process.returncode is None:
        process.kill()
        await process.wait()
