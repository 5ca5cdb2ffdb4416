"""recall doctor: checks of the machine, of the installed parts and of bundles."""

import importlib
import os
import platform
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from recall.terminal import last_line, out
from service.errors import RecallError

Check = Callable[[], str]


def doctor(
    bundle: Annotated[list[Path] | None, typer.Option(help="Bundle folder to open and prove; may be repeated.")] = None,
) -> None:
    """Check the installation, and bundles.

    The exit status is 1 when something is wrong.
    """
    checks: dict[str, Check] = {
        "python": platform.python_version,
        "cores": lambda: str(os.cpu_count()),
        "torch": check_torch,
        "gpu": check_gpu,
        "faiss": check_faiss,
        "loops": check_loops,
        "decoder": check_decoder,
        "embedded redis": check_redis,
    }
    checks |= {f"bundle {folder}": lambda folder=folder: check_bundle(folder) for folder in bundle or []}  # type: ignore[misc]
    table = Table("check", "state", "result")
    failed = []
    for name, check in checks.items():
        try:
            state, result = Text("ok"), check()
        # one failed check must not hide the others
        except (ImportError, OSError, ValueError, RuntimeError, RecallError) as error:
            state, result = Text("wrong", style="red"), str(error)
            failed.append(name)
        table.add_row(name, state, result)
    out.print(table)
    last_line({"failed": failed})
    if failed:
        raise typer.Exit(1)


def check_torch() -> str:
    import torch

    capability, threads = torch.backends.cpu.get_cpu_capability(), torch.get_num_threads()
    return f"{torch.__version__}, {capability}, {threads} threads for training, 1 for serving"


def check_gpu() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "none: training and serving use the CPU"


def check_faiss() -> str:
    faiss = importlib.import_module("faiss")
    return f"{faiss.__version__}; needed for indexes other than exact"


def check_loops() -> str:
    from model.native.loops import LOADED

    return LOADED.reason


def check_decoder() -> str:
    from model.fused.library import UnavailableError, open_library

    try:
        open_library()
    except UnavailableError as error:
        return f"torch encodes on the CPU, slower: {error}"
    return "compiled code encodes on the CPU, where the network is one that it knows"


def check_redis() -> str:
    from service.stores.embedded_redis import EmbeddedRedis

    with tempfile.TemporaryDirectory() as folder, EmbeddedRedis(Path(folder)) as server:
        return f"starts and answers (process {server.pid})"


def check_bundle(folder: Path) -> str:
    from service.engine.loading import load_arm

    arm = load_arm("checked", folder, "cpu").release
    return f"{arm.kind}, {len(arm.catalogue.items)} items, digest {arm.bundle[:12]}, golden queries replayed"
