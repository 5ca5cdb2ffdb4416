"""Fixtures of the whole project: a tiny data set, bundles of it, and one real service process that most tests share."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import polars as pl
import psutil
import pytest
import torch

# chosen when Triton is first imported: without a card, its kernels run in the interpreter
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

from hypothesis import settings

from index import best
from index.bundle.build import build_bundle
from model import merging
from model.attributes.table import Attributes
from model.catalogue import Catalogue, IdMap, Ragged
from model.checkpoint import Checkpoint, Provenance
from model.data.sequences import SequenceData
from model.native.loops import LOADED, Loaded
from model.networks import build_network
from model.outcomes.heads import OutcomeFit, OutcomeHeads
from model.records import PromptPlan, ServingPlan
from service.lists import diversity

# On a shared machine the time of one example says nothing of the code.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")


@pytest.fixture(scope="module", params=["NumPy", "C"])
def code(request):
    """Either code of the loops of model/native, for whatever has both."""
    if request.param == "C" and LOADED.loops is None:
        pytest.skip(LOADED.reason)
    with pytest.MonkeyPatch.context() as patch:
        for module in (best, diversity, merging):
            patch.setattr(module, "LOADED", LOADED if request.param == "C" else Loaded(None, "NumPy, by a test"))
        yield request.param


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets beside the checkout; tests that ask for it carry the mark `data`."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real data sets in {folder}; they are not part of the project")
    return folder


@pytest.fixture(scope="session", autouse=True)
def no_redis_is_left(tmp_path_factory):
    """Fails the run when a redis-server that it started, through however many processes, outlives it."""
    yield
    deadline = time.monotonic() + STOP_LIMIT_S
    while left := redis_servers_in(tmp_path_factory.getbasetemp()):
        assert time.monotonic() < deadline, f"left behind: {left}"
        time.sleep(0.1)


def redis_servers_in(folder: Path) -> list[psutil.Process]:
    """The redis-servers whose data lie in `folder`."""
    return [
        process
        for process in psutil.process_iter(["name", "cwd"])
        if process.info["name"] == "redis-server" and folder in Path(process.info["cwd"] or "/").parents
    ]


NUM_ITEMS, NUM_USERS, WINDOW = 300, 50, 20
INT_ITEMS, INT_USERS = [10_001 + 7 * n for n in range(NUM_ITEMS)], [500 + 3 * n for n in range(NUM_USERS)]
TEXT_ITEMS, TEXT_USERS = [f"clip-{n:03}" for n in range(NUM_ITEMS)], [f"ü{n:03}" for n in range(NUM_USERS)]
SMALL = {"num_items": NUM_ITEMS, "num_users": NUM_USERS, "dim": 16, "max_length": WINDOW, "dropout": 0.0}
NETWORKS = {"recgpt": SMALL | {"num_layers": 1, "num_heads": 2}, "comirec": SMALL | {"num_interests": 4}}
PLANS = {"recgpt": ServingPlan(PromptPlan(num_steps=2), quotas=(7, 3)), "comirec": ServingPlan()}
OUTCOMES = ("like", "follow")  # that recgpt can be asked for, and comirec cannot
QA_KEY = "only-for-tests"
START_LIMIT_S, STOP_LIMIT_S, COMMAND_LIMIT_S = 60, 20, 60
# Patient, because on a shared machine a slow answer says nothing of the code.
PATIENT = (
    *("--request-timeout-ms", "30000", "--redis-timeout-ms", "5000", "--events-timeout-ms", "5000"),
    *("--engine-stall-ms", "60000", "--target-wait-ms", "5000"),
)


def make_data(item_ids, user_ids) -> SequenceData:
    """Histories of 0 to 34 items, so also longer than the window, with repeats."""
    rng = np.random.default_rng(11)
    train, valid, test = (
        Ragged.of(1 + rng.zipf(1.3, size) % NUM_ITEMS for size in sizes)
        for sizes in (rng.integers(0, 34, NUM_USERS), [1] * NUM_USERS, [1] * NUM_USERS)
    )
    counts = np.bincount(train.values, minlength=NUM_ITEMS + 1)[1:].astype(np.int64)
    catalogue = Catalogue(IdMap.of(item_ids), IdMap.of(user_ids), counts, attributes=make_attributes())
    return SequenceData("tiny", catalogue, train, valid, test, "leave-one-out")


def make_attributes() -> Attributes:
    """Authors of ten items each, lists of categories, languages and durations that some items lack, and a flag."""
    numbers = range(NUM_ITEMS)
    columns = {
        "author": [7_000 + n // 10 for n in numbers],
        "category": [[n % 6, 10 + n % 4] if n % 5 else [] for n in numbers],
        "language": [(None, "en", "de", "zh")[n % 4] for n in numbers],
        "duration_s": [None if n % 11 == 0 else float(5 + n % 90) for n in numbers],
        "uploaded": [1_000 * n for n in numbers],
        "is_live": [n % 50 == 0 for n in numbers],
    }
    return Attributes(pl.DataFrame(columns, schema_overrides={"category": pl.List(pl.Int64)}))


def save_checkpoint(kind: str, data: SequenceData, folder: Path) -> Path:
    """A network as it is before training: every query is different, and that is all these tests need."""
    torch.manual_seed(5)
    network = build_network(kind, NETWORKS[kind])
    with torch.no_grad():
        for weights in network.parameters():
            weights.mul_(4)  # far from rounding: scores differ in the first digits
        if kind == "recgpt":
            network.users.weight.normal_()  # zero until it is trained
    provenance = Provenance(data.digest, data.name, "none", 5, "test")
    heads = make_heads(SMALL["dim"]) if kind == "recgpt" else None
    Checkpoint(network, PLANS[kind], data.sampled_catalogue, provenance, heads).save(folder)
    return folder


def make_heads(dim: int, rank: int = 4) -> OutcomeHeads:
    """Heads that change every list: random, and as long as the vectors that they move."""
    rng = np.random.default_rng(3)
    shapes = (len(OUTCOMES), rank, dim), (len(OUTCOMES), dim, rank), (len(OUTCOMES), dim)
    fits = tuple(OutcomeFit(name, 10 * number, number) for number, name in enumerate(OUTCOMES, 1))
    return OutcomeHeads(fits, *(rng.normal(size=shape).astype(np.float32) for shape in shapes))


@pytest.fixture(scope="session")
def tiny() -> SequenceData:
    return make_data(INT_ITEMS, INT_USERS)


@pytest.fixture(scope="session")
def checkpoints(tiny, tmp_path_factory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    words = make_data(TEXT_ITEMS, TEXT_USERS)
    ints = {kind: save_checkpoint(kind, tiny, root / kind) for kind in ("recgpt", "comirec")}
    return ints | {"words": save_checkpoint("recgpt", words, root / "words")}


@pytest.fixture(scope="session")
def bundles(checkpoints, tmp_path_factory) -> dict[str, Path]:
    """recgpt and comirec over integer ids, words over string ids."""
    root = tmp_path_factory.mktemp("bundles")
    for arm, checkpoint in checkpoints.items():
        build_bundle(checkpoint, root / arm)
    return {arm: root / arm for arm in checkpoints}


@pytest.fixture(scope="session")
def arm_options(bundles) -> list[str]:
    """The options that make `recall serve` serve both arms of the experiment."""
    return [word for arm in ("recgpt", "comirec") for word in ("--arm", f"{arm}={bundles[arm]}")]


def clean_environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("RECALL_")}
    return kept | {"OMP_NUM_THREADS": "1", "COLUMNS": "200"} | more


class Forked:
    """A `recall` command that runs, with the methods of Popen; started in milliseconds by `Forker`."""

    def __init__(self, forker: "Forker", pid: int) -> None:
        self._forker, self.pid, self._status = forker, pid, None

    def poll(self) -> int | None:
        if self._status is None:
            self._status = self._forker.tell({"poll": self.pid})
        return self._status

    def wait(self, timeout: float | None = None) -> int:
        """Raises TimeoutExpired, as Popen.wait does; without a timeout the command has one of its own."""
        if timeout is None:
            self._status = self._forker.tell({"wait": self.pid})
        deadline = time.monotonic() + (timeout or 0)
        while self.poll() is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(f"recall, process {self.pid}", timeout)
            time.sleep(0.01)
        return self._status

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        # one that has ended and was asked for its status may have given its id to another process
        if self.poll() is None:
            os.kill(self.pid, number)


class Forker:
    """tests/forker.py in a process of its own, which has imported what any command needs."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    def start(self, args, env, out: Path, err: Path, limit_s: int = 0) -> Forked:
        """Runs `recall` with these arguments; limit_s: the command dies after so long, 0 = never."""
        files = {"out": str(out), "err": str(err)}
        return Forked(self, self.tell({"args": [*map(str, args)], "env": env, "limit_s": limit_s} | files))

    def tell(self, job: dict) -> int | None:
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@pytest.fixture(scope="session")
def forker():
    command = [sys.executable, str(Path(__file__).with_name("forker.py"))]
    environment = clean_environment(PYTHONPATH=os.getcwd())
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, env=environment, **pipes) as process:
        yield Forker(process)
        process.stdin.close()


@dataclass(frozen=True)
class Served:
    """A running `recall serve`."""

    url: str
    state: Path
    log: Path
    process: "Forked | subprocess.Popen[bytes]"

    def stop(self) -> int:
        """Exit status after SIGTERM."""
        self.process.terminate()
        try:
            return self.process.wait(STOP_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise


def wait_for_url(process: "Forked | subprocess.Popen[bytes]", log: Path) -> str:
    """The address that the service prints once it answers; fails with its log when it ends or takes too long."""
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        if match := re.search(r"recall serves at (https?://\S+)", log.read_text() if log.exists() else ""):
            return match[1]
        time.sleep(0.02)
    process.kill()
    pytest.fail(f"the service did not start (status {process.wait(STOP_LIMIT_S)}): {log.read_text()[-2000:]}")


@contextmanager
def serving(process: "Forked | subprocess.Popen[bytes]", state: Path, log: Path):
    """The service of a process that was just started; ended at the end."""
    try:
        served = Served(wait_for_url(process, log), state, log, process)
        wait_until_ready(served.url)
        yield served
    finally:
        if process.poll() is None:
            served.stop()


@pytest.fixture(scope="session")
def launch(tmp_path_factory, forker):
    """A context manager: `with launch("--arm", ..) as served`, a service of its own on a free port."""

    @contextmanager
    def run(*options: str, **environment: str):
        folder = tmp_path_factory.mktemp("serve")
        state, log = folder / "state", folder / "log"
        command = ["serve", "--state-dir", state, "--port", 0, *options]
        # a consumer beside each service would be a second process to start, and would empty the streams
        known = clean_environment(**{"RECALL_EVENT_LOG_GB": "0", "RECALL_DRAIN_S": "0"} | environment)
        process = forker.start(command, known, folder / "out", log)
        with serving(process, state, log) as served:
            yield served

    return run


@pytest.fixture(scope="session")
def launch_command(tmp_path_factory):
    """The same as a user starts it: `python -m recall serve`, with settings from variables alone."""

    @contextmanager
    def run(**settings: str):
        folder = tmp_path_factory.mktemp("serve")
        state, log = folder / "state", folder / "log"
        environment = clean_environment(RECALL_STATE_DIR=str(state), **settings)
        command = [sys.executable, "-m", "recall", "serve"]
        with (
            log.open("wb") as sink,
            subprocess.Popen(command, stderr=sink, env=environment) as process,
            serving(process, state, log) as served,
        ):
            yield served

    return run


def wait_until_ready(url: str) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while httpx.get(f"{url}/ready", timeout=10).status_code != 200:
        assert time.monotonic() < deadline, "the service is not ready"
        time.sleep(0.02)


@pytest.fixture(scope="session")
def service(launch, arm_options, bundles):
    """Both arms of the experiment and the string ids of `words`, with an embedded Redis."""
    words = ("--arm", f"words={bundles['words']}")
    with launch(*arm_options, *words, "--qa-key", QA_KEY, *PATIENT) as served:
        yield served


@pytest.fixture(scope="session")
def client(service):
    with httpx.Client(base_url=service.url, timeout=60) as http:
        yield http


@pytest.fixture(scope="session")
def recall(client):
    """The answer to a request that must succeed: recall("/recall/recgpt", history=[..])."""

    def ask(path: str = "/recall", **body):
        reply = client.post(path, json=body)
        assert reply.status_code == 200, reply.text
        return reply.json()

    return ask


@pytest.fixture(scope="session")
def events(service):
    """A client of the running service's embedded Redis."""
    import redis

    socket = (service.state / "redis" / "redis.where").read_text()
    with redis.Redis(unix_socket_path=socket) as redis_client:
        yield redis_client


@dataclass(frozen=True)
class Finished:
    """A `recall` command that has ended."""

    status: int
    out: str
    err: str

    @property
    def last_line(self):
        """The result for machines."""
        return json.loads(self.out.splitlines()[-1])

    @property
    def sentence(self) -> str:
        """The sentence that a user reads: standard error without log lines; the last line of click's usage messages."""
        assert "Traceback" not in self.err, self.err
        lines = [line for line in self.err.splitlines() if line and not line.startswith("{")]
        assert len(lines) == 1 or lines[0].startswith("Usage: "), self.err
        return lines[-1]


@pytest.fixture(scope="session")
def run_recall(tmp_path_factory, forker):
    """run_recall("build", "--checkpoint", ..): a command that runs to its end."""
    folder = tmp_path_factory.mktemp("commands")
    out, err = folder / "out", folder / "err"

    def run(*args: object, **more: str) -> Finished:
        environment = clean_environment(PYTHONPATH=os.getcwd(), **more)
        status = forker.start(args, environment, out, err, COMMAND_LIMIT_S).wait()
        return Finished(status, out.read_text(), err.read_text())

    return run


@pytest.fixture(scope="session")
def known(tiny):
    """Item ids, row 1 first."""
    return tiny.catalogue.items.ids.tolist()
