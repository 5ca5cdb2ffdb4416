"""Runs `recall` commands in processes forked from one that has imported everything: for tests, which run many.

Reads one JSON line a job from standard input: {"args": [..], "env": {..}, "out": path, "err": path}; answers each with
a line that holds the exit status.
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
    "service.http.app",
    "service.http.server",
    "service.engine.offline",
    "index.bundle.build",
    "model.training.trainer",
)
LIMIT_S = 60


def become(job: dict[str, Any]) -> None:
    """The rest of this process is `recall` with these arguments."""
    signal.alarm(LIMIT_S)  # a command that does not end dies of it: status -14
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
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


def main() -> None:
    for name in PRELOADED:
        import_module(name)
    gc.freeze()
    for line in sys.stdin:
        child = os.fork()
        if not child:
            become(json.loads(line))
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
