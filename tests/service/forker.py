"""Runs `recall` commands in processes forked from one that has imported everything: for tests, which run many.

Reads one JSON line a job from standard input: {"args": [..], "env": {..}, "out": path, "err": path}; answers each with
a line that holds the exit status.
"""

import json
import os
import signal
import sys
import traceback
from typing import Any

import polars  # noqa: F401 - so that no child has to import it
import torch  # noqa: F401

import index.build
import model.training.trainer
import service.app
import service.cli
import service.offline
import service.server  # noqa: F401


LIMIT_S = 60


def run_child(job: dict[str, Any]) -> int:
    signal.alarm(LIMIT_S)  # a command that does not end dies of it: status -14
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(job[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.environ.clear()
    os.environ.update(job["env"])
    sys.argv = ["recall", *job["args"]]
    try:
        service.cli.main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # as the interpreter would
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    for line in sys.stdin:
        child = os.fork()
        if not child:
            status = run_child(json.loads(line))
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        _, status = os.waitpid(child, 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
