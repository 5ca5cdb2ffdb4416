"""The GPU path on a GPU: right, how fast, and how near to what the machine can do. One process and time limit a part.

    python -m benchmarks.gpu --output benchmarks/results/gpu.jsonl    # on a machine with CUDA
    python -m benchmarks.gpu --device cpu --small                     # the script itself, anywhere, in some minutes

Lines of JSON as they come: a part that breaks or runs out of time leaves a line that says so, and loses nothing. What
each part measures stands in gpu_parts.py. The roofline is measured in the same run, before the others: a copy for bytes
a second, large products for operations a second; `share` is the bound that follows from it over the time taken.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

import torch

from benchmarks.gpu_parts import PARTS
from benchmarks.gpu_timing import Line, Setting
from recall.reproduction.facts import machine, versions

DEFAULT = ("roofline", "correct", "plans", "lanes", "engine", "blocks", "forwards", "maxima", "exact", "lock")


def run_here(name: str, setting: Setting) -> None:
    """The part itself, in a process of its own: a line for each thing it measures."""
    torch.set_num_threads(1 if setting.device == "cpu" else torch.get_num_threads())
    for line in PARTS[name](setting):
        print(json.dumps({"part": name, **line}), flush=True)


def lines_of(stream: Iterable[str]) -> Iterator[Line]:
    for text in stream:
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            yield line


def run_apart(name: str, command: list[str], limit_s: float) -> Iterator[Line]:
    """Lines of a part as it prints them, and one more where it failed or was stopped."""
    interpreted = {"TRITON_INTERPRET": "1"} if "cpu" in command else {}
    started = time.monotonic()
    command = [sys.executable, "-m", "benchmarks.gpu", *command, "--part", name]
    # errors go to a file: a pipe that nobody reads would fill up
    with (
        tempfile.TemporaryFile("w+") as errors,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, env={**os.environ, **interpreted}
        ) as part,
    ):
        timer = threading.Timer(limit_s, part.kill)
        timer.start()
        yield from lines_of(part.stdout or [])
        code = part.wait()
        timer.cancel()
        errors.seek(0)
        seconds, end = round(time.monotonic() - started, 1), errors.read()[-600:]
    if code:
        yield {"part": name, "failed": f"stopped after {limit_s} s" if code == -signal.SIGKILL else end, "exit": code}
    yield {"part": name, "seconds": seconds}


def write(line: Line, output: TextIO | None) -> None:
    text = json.dumps(line)
    print(text, flush=True)
    if output:
        output.write(text + "\n")
        output.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--small", action="store_true", help="sizes for trying the script")
    parser.add_argument("--parts", default=",".join(DEFAULT), help=f"of {', '.join(PARTS)}")
    parser.add_argument("--limit-s", type=float, default=150, help="seconds a part may take")
    parser.add_argument("--http", action="store_true", help="the service too; minutes")
    parser.add_argument("--output", type=Path, help="lines of JSON, written anew")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--bound", type=json.loads, default={}, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no GPU; --device cpu --small tries the script itself")
    setting = Setting(given.device, given.small, given.bound)
    if given.part:
        run_here(given.part, setting)
        return
    names = [*given.parts.split(","), *(["http"] if given.http else [])]
    if unknown := set(names) - set(PARTS):
        parser.error(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    output = given.output.open("w", encoding="utf-8") if given.output else None
    write({"machine": machine(given.device), "versions": versions(), "command": " ".join(sys.argv[1:])}, output)
    bound: Line = {}
    for name in names:
        command = ["--device", given.device, "--bound", json.dumps(bound), *(["--small"] if given.small else [])]
        for line in run_apart(name, command, given.limit_s):
            write(line, output)
            bound = line if name == "roofline" and "bytes_s" in line else bound


if __name__ == "__main__":
    main()
