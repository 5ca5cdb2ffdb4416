"""The provenance of a row: code, machine, memory. No host names, no users."""

import os
import platform
import resource
import subprocess
from pathlib import Path

import torch

from model import __version__

ROOT = Path(__file__).parents[2]
CODE = ("model", "index", "service", "recall", "benchmarks/*.py")


def versions() -> dict[str, str]:
    return {"code": __version__, "torch": torch.__version__, "python": platform.python_version()} | _commit()


def _commit() -> dict[str, str]:
    try:
        commit, changed = _git("rev-parse", "--short=10", "HEAD"), _git("status", "--porcelain", "--", *CODE)
    except (OSError, subprocess.SubprocessError):
        return {}  # an installed package, or a machine without git
    # only the code counts: the rows themselves change with every run
    return {"commit": f"{commit}-dirty" if changed else commit}


def _git(*words: str) -> str:
    command = ["git", "-C", str(ROOT), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()  # noqa: S603


def machine(device: str) -> str:
    """Describes the machine for a reader of the table: '2 cores of AMD EPYC', and the GPU where it was used."""
    # those this process may use: a container may have fewer than the machine
    cores = f"{len(os.sched_getaffinity(0))} cores of {_processor()}"
    return f"{torch.cuda.get_device_name()}, {cores}" if device.startswith("cuda") else cores


def _processor() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def peak_memory_mb() -> float:
    """The peak of the process so far; Linux counts in KiB."""
    # a high-water mark: it never falls, so a run shows at least what an earlier one of the process took
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
