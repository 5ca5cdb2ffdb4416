"""The rate of `recall export` against the engine's own, and kills that must leave the same file: `make export-lists`.

Three ways to the lists of the same users take turns: the engine's computation alone over requests that are there
already (encode, search, merge), the engine with its queue as `POST /recall/batch` asks it (blocks of 256 users), and
the whole export, from histories to a Parquet file. CPU time of the process, all threads; wall time beside it. Then the
command is killed (-9) at random moments and resumed: the file must be, byte for byte, that of a run nobody killed.
"""

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from model.catalogue import Catalogue, IdMap, Ragged
from model.data.sequences import SequenceData
from recall.bench.bundles import Sizes, make_bundle
from recall.reproduction.facts import machine, versions
from service.engine.arms import Member
from service.engine.compute import BatchCompute
from service.engine.loading import LoadedArm, load_arm
from service.export.export import ListExport
from service.export.histories import UserHistories
from service.export.lists import BATCH
from service.export.parts import PartFolder

TOP_N, HISTORY, BLOCK, STARTING_S = 100, 50, 256, 2.0


def data_of(num_users: int, num_items: int) -> SequenceData:
    """Histories of HISTORY items, popular ones more often."""
    rng = np.random.default_rng(1)
    items = (rng.zipf(1.3, num_users * HISTORY) * 7919 % num_items + 1).astype(np.int32)
    train = Ragged(np.arange(num_users + 1) * HISTORY, items)
    nothing = Ragged(np.zeros(num_users + 1, dtype=np.int64), np.zeros(0, dtype=np.int32))
    counts = np.bincount(items, minlength=num_items + 1)[1:].astype(np.int64)
    catalogue = Catalogue(IdMap.of(range(num_items)), IdMap.of(range(num_users)), counts)
    return SequenceData("bench", catalogue, train, nothing, nothing, "given")


def computation(arm: LoadedArm, histories: UserHistories) -> Callable[[], None]:
    requests = [arm.release.request(*user, limit=TOP_N) for user in histories.of_users(range(len(histories)))]

    def run() -> None:
        for start in range(0, len(requests), BATCH):
            arm.compute.run(requests[start : start + BATCH])

    return run


def queue(arm: LoadedArm, histories: UserHistories, loop: asyncio.AbstractEventLoop) -> Callable[[], None]:
    members = [Member(user, history, (), TOP_N) for user, history in histories.of_users(range(len(histories)))]

    async def ask() -> None:
        # two blocks under way, as two clients that ask one batch after the other
        blocks = [arm.release.block(members[start : start + BLOCK]) for start in range(0, len(members), BLOCK)]
        under_way: set[asyncio.Task[object]] = set()
        for block in blocks:
            if len(under_way) == 2:
                _, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            under_way.add(asyncio.ensure_future(arm.release.engine.ask_block(block)))
        await asyncio.wait(under_way)

    return lambda: loop.run_until_complete(ask())


def exporting(arm: LoadedArm, histories: UserHistories, folder: Path) -> Callable[[], None]:
    wanted = ListExport(arm, histories, TOP_N)

    def run() -> None:
        with PartFolder.opened(folder / "lists.parquet", wanted.facts("cpu")) as parts:
            wanted.run(parts)

    return run


def rates(folder: Path, bundle: Path, data: SequenceData, rounds: int) -> dict[str, object]:
    arm, histories = load_arm("bench", bundle, "cpu"), UserHistories.of(data)
    assert isinstance(arm.compute, BatchCompute)  # a card's graphs are not made for the CPU
    # one loop for all rounds: an engine belongs to the first it is asked in
    loop = asyncio.new_event_loop()
    ways = {
        "compute": computation(arm, histories),
        "engine": queue(arm, histories, loop),
        "export": exporting(arm, histories, folder),
    }
    cpu_us: dict[str, list[float]] = {name: [] for name in ways}
    users_s: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, run in ways.items():
            cpu, wall = time.process_time(), time.perf_counter()
            run()
            cpu_us[name].append((time.process_time() - cpu) / len(histories) * 1e6)
            users_s[name].append(len(histories) / (time.perf_counter() - wall))

    loop.run_until_complete(arm.release.engine.close())
    loop.close()

    def share(name: str) -> float:
        """The engine's CPU time over the export's, of each round; their median."""
        return statistics.median(own / ours for own, ours in zip(cpu_us[name], cpu_us["export"], strict=True))

    return {
        "users": len(histories),
        "items": len(data.catalogue.items),
        "index": arm.compute.index.spec,
        "cpu_us": {name: round(statistics.median(own), 1) for name, own in cpu_us.items()},
        "users_s": {name: round(statistics.median(own)) for name, own in users_s.items()},
        "share_of_compute": round(share("compute"), 3),
        "share_of_engine": round(share("engine"), 3),
        "bytes_a_user": round((folder / "lists.parquet").stat().st_size / len(histories)),
        "rounds": rounds,
    }


def kill(folder: Path, bundle: Path, num_kills: int, seconds: float) -> dict[str, int]:
    """Kills the command at random moments until there were so many kills; each file must be that of `whole`."""
    wanted = ["--bundle", str(bundle), "--data", str(folder / "data"), "--output"]
    command = [sys.executable, "-m", "recall", "export", *wanted]
    whole, rng, kills, files, different = folder / "whole.parquet", random.Random(0), 0, 0, 0
    subprocess.run([*command, str(whole)], check=True, capture_output=True)
    output = folder / "killed.parquet"
    while kills < num_kills:
        with subprocess.Popen([*command, str(output)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as run:
            try:
                run.wait(STARTING_S + rng.uniform(0, seconds))
            except subprocess.TimeoutExpired:
                run.kill()
                kills += 1
                continue
        files += 1
        different += output.read_bytes() != whole.read_bytes()
        output.unlink()
    subprocess.run([*command, str(output)], check=True, capture_output=True)
    different += output.read_bytes() != whole.read_bytes()
    return {"kills": kills, "files": files + 1, "different": different}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=20_000)
    parser.add_argument("--items", type=int, default=12_101)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = make_bundle(folder, Sizes(num_items=options.items))
        data = data_of(options.users, options.items)
        data.save(folder / "data")
        report = rates(folder, bundle, data, options.rounds)
        if options.kills:
            report |= kill(folder, bundle, options.kills, options.users / 3_000)
    report |= {"machine": machine("cpu"), "versions": versions()}
    print(json.dumps(report))
    if options.output:
        options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    sys.exit(bool(report.get("different")))


if __name__ == "__main__":
    main()
