"""Runs `recall` commands in processes forked from one that has imported everything: for tests, which run many.

Reads one JSON line a job from standard input and answers each with a line of JSON:
{"args": [..], "env": {..}, "out": path, "err": path, "limit_s": seconds} starts a command: its process id;
{"wait": pid} and {"poll": pid} ask for its exit status: the first waits for the end, the second may get null.
"""

import gc
import json
import os
import signal
import sys
from importlib import import_module
from typing import Any

PRELOADED = (
    "recall.__main__",
    "service.engine_process",
    "service.http.app",
    "service.http.server",
    "service.engine.offline",
    "index.bundle.build",
    "model.training.trainer",
)


def start(job: dict[str, Any]) -> int:
    """The id of a process that is `recall` with these arguments."""
    child = os.fork()
    if not child:
        become(job)
    return child


def become(job: dict[str, Any]) -> None:
    """The rest of this process is `recall` with these arguments."""
    signal.alarm(job["limit_s"])  # a command that does not end dies of it: status -14; 0 = it may run on
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    # what it starts itself must not hold the pipe that the jobs come through
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.clear()
    os.environ.update(job["env"])
    sys.argv = ["recall", *job["args"]]
    try:
        import_module("recall.__main__").main()
    except SystemExit as end:
        leave(int(end.code or 0))
    leave(0)


def leave(status: int) -> None:
    """Without taking down what this process never built: that costs more than most commands."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def status_of(pid: int, options: int) -> int | None:
    """The exit status; None where it has none yet. It is told once."""
    ended, status = os.waitpid(pid, options)
    return os.waitstatus_to_exitcode(status) if ended else None


def main() -> None:
    for name in PRELOADED:
        import_module(name)
    gc.freeze()
    for line in sys.stdin:
        match json.loads(line):
            case {"wait": pid}:
                answer = status_of(pid, 0)
            case {"poll": pid}:
                answer = status_of(pid, os.WNOHANG)
            case job:
                answer = start(job)
        sys.stdout.write(f"{json.dumps(answer)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
