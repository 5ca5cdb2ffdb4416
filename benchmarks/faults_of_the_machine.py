"""Rows of the fault suite about the machine below the service: a disk that is full, and a clock that jumps.

The disk is a small file system of the service's own, in a mount namespace (`unshare`, which needs no rights where the
system allows it); log, state, spool and event log lie on it. The clock is libfaketime's, which takes the offset of wall
time from a file; the redis-server beside the service has the same one, and monotonic time goes on.
"""

import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import cast

import httpx
import orjson
import polars as pl
import redis

from benchmarks.fault_rows import PATIENT, Outcome, case, failed, in_both, load_of
from recall.bench.target import Checkout, Target, serving
from recall.bench.trials import send
from recall.calling import bearing
from service.access.keys import Scope, new_key
from service.events.streams import FEEDBACK

DISK_MB, BACK_S, RATE = 24, 30.0, 5
MOUNT = 'mount -t tmpfs -o size={size}m tmpfs "$1"; log="$1/log"; shift; exec "$@" 2>>"$log"'
EVENT = {"user_id": "u", "item_id": 1, "action": "play"}
HOURS = (1, -1, 24 * 8, 0)  # offsets of wall time, one after the other


def on_a_small_disk(folder: Path) -> Checkout:
    """`recall` with a file system of DISK_MB of its own at this folder, to which it writes its log."""
    recall = (sys.executable, "-m", "recall")
    return Checkout(("unshare", "-rm", "bash", "-c", MOUNT.format(size=DISK_MB), "service", str(folder), *recall))


def seen_by(target: Target, folder: Path) -> Path:
    """The folder as the service sees it."""
    return Path(f"/proc/{target.pid}/root{folder}")


def fill(folder: Path) -> Path:
    """A file that takes all the room that is left."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, suppress(OSError):
        for size in (2**20, 2**12, 1):
            with suppress(OSError):
                while file.write(b"x" * size):
                    pass
    return filler


@dataclass
class Sender:
    """Sends events of feedback, each of a user of its own, and knows which were acknowledged."""

    client: httpx.Client
    acknowledged: set[str] = field(default_factory=set)
    num_sent: int = 0

    def send(self, count: int) -> Counter[int]:
        """The statuses of so many events."""
        statuses = Counter[int]()
        for number in range(self.num_sent, self.num_sent + count):
            user = f"u{number}"
            status = self.client.post("/feedback", json=EVENT | {"user_id": user}).status_code
            statuses[status] += 1
            if status == 202:
                self.acknowledged.add(user)
        self.num_sent += count
        return statuses


def kept_users(state: Path) -> set[str]:
    """The users of all events of feedback in the stream and in the event log."""
    users = set[str]()
    for path in (state / "events" / "feedback").glob("*/*.parquet"):
        users |= {str(user) for user in pl.read_parquet(path, columns=["user"], glob=False)["user"]}
    with redis.Redis(unix_socket_path=str(state / "redis" / "redis.sock")) as client:
        for _, fields in cast(list[tuple[bytes, dict[bytes, bytes]]], client.xrange(FEEDBACK)):
            users |= {str(orjson.loads(value)["user"]) for value in fields.values()}
    return users


@case(
    33,
    "the disk is full under log, state, spool and event log",
    "recall: 0 failed; feedback: 202 or 503, none that got 202 lost; named in /ready; back <= 30 s after there is room",
)
@in_both
def full_disk(bundle: Path, *options: str) -> Outcome:
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder)
        given = (
            "--state-dir",
            str(disk / "state"),
            "--log-level",
            "info",
            "--event-log-gb",
            "0.01",
            *PATIENT,
            *options,
        )
        with (
            serving({"recgpt": bundle}, *given, checkout=on_a_small_disk(disk)) as target,
            httpx.Client(base_url=target.url, timeout=30) as client,
        ):
            sender, state = Sender(client), seen_by(target, disk) / "state"
            sender.send(20)
            filler = fill(seen_by(target, disk))
            with ThreadPoolExecutor(1) as loader:
                loading = loader.submit(send, load_of(target, 60, seconds=6))
                during = sender.send(40)
                time.sleep(3)
                during += sender.send(40)
                named = client.get("/ready").json()["degraded"]
                measured = loading.result()
            filler.unlink()
            began = time.monotonic()
            while not (is_back := sender.send(1)[202] == 1) and time.monotonic() - began < BACK_S:
                time.sleep(0.1)
            back_s = time.monotonic() - began
            lost = sender.acknowledged - kept_users(state)
    text = (
        f"{measured.statuses} of the load, {failed(measured)} failed; feedback {dict(during)}; /ready {named}; taken "
        f"again after {back_s:.1f} s; {len(lost)} of {len(sender.acknowledged)} acknowledged events lost"
    )
    is_good = not failed(measured) and {*during} <= {202, 503} and is_back and not lost
    return text, is_good and bool(named)


def with_a_clock(offset: Path) -> Checkout:
    """`recall` whose wall time is off by what a file says. Raises RuntimeError where libfaketime is not installed."""
    package = find_spec("libfaketime")
    if package is None or package.origin is None:
        raise RuntimeError("libfaketime is not installed (pip install libfaketime)")
    library = Path(package.origin).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"
    words = (
        f"LD_PRELOAD={library}",
        f"FAKETIME_TIMESTAMP_FILE={offset}",
        *("FAKETIME_NO_CACHE=1", "FAKETIME_DONT_FAKE_MONOTONIC=1"),
    )
    return Checkout(("env", *words, sys.executable, "-m", "recall"))


def arms_of(client: httpx.Client) -> list[str]:
    """The arms of some users; empty where an answer is no list."""
    replies = [client.post("/recall", json={"user_id": f"u{n}", "history": [n]}) for n in range(1, 31)]
    return [reply.json()["arm"] if reply.status_code == 200 else f"{reply.status_code}" for reply in replies]


@case(
    34,
    "wall time jumps: an hour ahead, an hour back, eight days ahead, back",
    "recall: 0 failed, each user keeps the arm; feedback taken; a key's rate as it was",
)
@in_both
def clock_jumps(bundle: Path, *options: str) -> Outcome:
    (secret, key), (slow_secret, slow_key) = new_key("all", [*Scope]), new_key("slow", [Scope.FEEDBACK], RATE)
    told, is_good = list[str](), True
    with tempfile.TemporaryDirectory() as folder:
        offset = Path(folder) / "offset"
        offset.write_text("+0")
        # two arms of one bundle: the experiment decides, and keeps what it decided in Redis, which has the same clock
        arms = {"recgpt": bundle, "comirec": bundle}
        given = ("--sticky-days", "2", "--api-keys", f"{key.line};{slow_key.line}", *PATIENT, *options)
        with (
            serving(arms, *given, checkout=with_a_clock(offset)) as target,
            httpx.Client(base_url=target.url, timeout=30, headers=bearing(secret)) as client,
        ):
            before = arms_of(client)
            for hours in HOURS:
                offset.write_text(f"{hours:+}h")
                time.sleep(1.5)
                moved = sum(now != then for now, then in zip(arms_of(client), before, strict=True))
                began = time.monotonic()
                sent = (client.post("/feedback", json=EVENT, headers=bearing(slow_secret)) for _ in range(30))
                statuses = Counter(reply.status_code for reply in sent)
                # those of a second at once, and what has grown back meanwhile
                allowed = RATE * (1 + time.monotonic() - began) + 1
                told.append(f"{hours:+} h: {moved} moved, feedback {dict(statuses)}")
                is_good = is_good and not moved and {*statuses} <= {202, 429} and 1 <= statuses[202] <= allowed
            broken = target.log.read_text().count("internal_error") if target.log else 1
    return f"{'; '.join(told)}; {broken} internal errors", is_good and not broken and {*before} == {*arms}
