"""Processes that the service starts beside itself: they run this very code, installed or from a checkout."""

import os
import site
import sys
from collections.abc import Mapping
from pathlib import Path


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
