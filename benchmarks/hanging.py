"""`recall` with an encoder that hangs, or whose thread dies, while a file says so: for tests of the watch.

RECALL_TEST_HANG=/tmp/hang python -m benchmarks.hanging serve ..
echo hang > /tmp/hang     # or: echo die > /tmp/hang; remove it to let the next thread work
echo fail 3001 > /tmp/hang    # bundles of 3,001 items fail; with `slow` they take SLOW_S longer a batch

With --http-workers the switch is in the engine process, which is started by way of this module too.
"""

import os
import runpy
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from model.encoder import UserEncoder
from model.records import History, QueryVectors
from recall.__main__ import main
from service.processes import supervisor

SWITCH = "RECALL_TEST_HANG"
MODULE = "--module"  # before the name of the module that the process is to be
SLOW_S = 0.1


def wish() -> str:
    try:
        return Path(os.environ[SWITCH]).read_text().strip()
    except OSError:
        return ""


def install() -> None:
    """Puts a switch before every encoder of this process."""
    encode = UserEncoder.encode

    def watched(self: UserEncoder, histories: Sequence[History]) -> QueryVectors:
        if wish() == "die":
            raise SystemExit
        while wish() == "hang":
            time.sleep(0.05)
        kind, _, num_items = wish().partition(" ")
        if num_items == str(self.network.config.num_items):
            if kind == "fail":
                raise RuntimeError("broken, as the switch says")
            time.sleep(SLOW_S)
        return encode(self, histories)

    setattr(UserEncoder, "encode", watched)  # noqa: B010  (a class of the product, for this process alone)


def command(module: str) -> list[str]:
    """The command of a process that the supervisor starts, with the switch."""
    return [sys.executable, "-m", "benchmarks.hanging", MODULE, module]


if __name__ == "__main__":
    install()
    if sys.argv[1:2] == [MODULE]:
        runpy.run_module(sys.argv[2], run_name="__main__")
    else:
        setattr(supervisor, "module_command", command)  # noqa: B010  (of the product, for this process alone)
        main()
