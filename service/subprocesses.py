"""Processes that the service starts beside itself, of this very code, installed or from a checkout; and their end."""

import os
import site
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

# waits on a pipe that the kernel closes when this process ends, however it ends
WATCHDOG = 'read -r _; kill -TERM "$1"'


def start_watchdog(pid: int) -> "subprocess.Popen[bytes]":
    """Starts a shell that stops the process `pid` once this process is gone; killed before that process is stopped."""
    command = ["/bin/sh", "-c", WATCHDOG, "watchdog", str(pid)]
    silent = subprocess.DEVNULL
    # a session of its own: Ctrl-C is for us
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=silent, stderr=silent, start_new_session=True)  # noqa: S603


def module_command(module: str) -> list[str]:
    """The command that runs a module of this code; nothing of the folder that a service is started in is imported."""
    return [sys.executable, "-P", "-m", module]


def child_environment(**more: str) -> Mapping[str, str]:
    """This process's environment with the path by which another process finds this very code."""
    return {**os.environ, **code_path(), **more}


def code_path() -> dict[str, str]:
    """The PYTHONPATH by which another process finds this very code, where that is not installed but a checkout."""
    here = str(Path(__file__).parents[1])
    if here in (*site.getsitepackages(), site.getusersitepackages()):
        return {}
    return {"PYTHONPATH": os.pathsep.join(filter(None, (here, os.environ.get("PYTHONPATH"))))}
