"""kill -9 at random moments of prepare, train and build, and of a training that resumes: `make kills`.

Each kill hits a process of its own that does the command's work over and over, two versions in turn, over one folder.
Afterwards the folder must open and be the first version or the second, whole; "mixed" counts the others. Forked from
this process, so that a kill hits the work and not the import of torch; and all work is done in such children, because
polars does not live on in a child of a process that has used it. The last column counts kills that hit between the
first byte written and the last step: leftovers of the writer lay beside the folder.
"""

import argparse
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import cycle
from multiprocessing import get_context
from pathlib import Path
from typing import TypeVar

import torch

from benchmarks.steady import add_row, where_and_when
from index.bundle.build import build_bundle
from index.bundle.bundle import open_bundle
from model.checkpoint import Checkpoint
from model.data.prepare import PrepareOptions, prepare
from model.data.sequences import SequenceData
from model.data.synthetic import SyntheticSpec
from model.recipes.files import load_recipe
from model.training.fit import fit
from model.training.stages import StageFolder
from model.training.trainer import with_epochs

RESUME = "resume"
SEEDS = (0, 1)  # of the two versions
EPOCHS = 30
T = TypeVar("T")
Work = Callable[[Path], object]
# the work of the two versions, and which of them a folder holds; an error where it is neither
Case = tuple[list[Work], Callable[[Path], str]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--only", nargs="*", choices=[*CASES, RESUME], default=[*CASES, RESUME])
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--output", type=Path, default=None, help="JSON Lines; a row a command is added")
    options = parser.parse_args()
    torch.set_num_threads(1)
    random.seed(options.seed)
    num_mixed = 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for command in options.only:
            if command == RESUME:
                row = resume(folder, options.kills)
            else:
                row = kill(folder / command, *CASES[command](folder), options.kills)
            num_mixed += bool(row["mixed"])
            add_row({**row, "seed": options.seed, **where_and_when()}, options.output)
    sys.exit(bool(num_mixed))


def preparing(_: Path) -> Case:
    return [partial(save_data, seed) for seed in SEEDS], version_of_data


def training(_: Path) -> Case:
    return [partial(save_trained, seed) for seed in SEEDS], version_of_checkpoint


def building(folder: Path) -> Case:
    for seed in SEEDS:
        in_child(partial(save_trained, seed, folder / f"checkpoint-{seed}"))
    return [partial(build_bundle, folder / f"checkpoint-{seed}") for seed in SEEDS], digest_of


CASES: dict[str, Callable[[Path], Case]] = {"prepare": preparing, "train": training, "build": building}


def data_of(seed: int) -> SequenceData:
    return prepare(PrepareOptions(synthetic=SyntheticSpec(num_users=100, num_items=120, seed=seed)))[0]


def save_data(seed: int, target: Path) -> None:
    data_of(seed).save(target)


def save_trained(seed: int, target: Path) -> None:
    fit(with_epochs(load_recipe("default", "sasrec"), 1), data_of(seed), seed).save(target)


def save_resumed(kept: StageFolder | None, target: Path) -> None:
    fit(with_epochs(load_recipe("default", "sasrec"), EPOCHS), data_of(0), kept=kept).save(target)


def version_of_data(target: Path) -> str:
    return SequenceData.load(target).digest


def digest_of(target: Path) -> str:
    return open_bundle(target).digest


def version_of_checkpoint(target: Path) -> str:
    checkpoint = Checkpoint.load(target)
    ids = hash(tuple(checkpoint.catalogue.items.ids.tolist()))
    return f"{checkpoint.provenance.seed} {checkpoint.network.items.weight.double().sum():.9f} {ids}"


def kill(target: Path, works: Iterable[Work], version: Callable[[Path], str], num_kills: int) -> dict[str, object]:
    known, spans = [], []
    for work in works:
        began = time.perf_counter()
        os.waitpid(forked([work], target), 0)
        spans.append(time.perf_counter() - began)
        known.append(in_child(partial(version, target)))
    counts = dict.fromkeys(("first", "second", "mixed", "while_writing"), 0)
    for _ in range(num_kills):
        killed_at_random(works, target, min(spans))
        counts["while_writing"] += any(target.parent.glob(f".{target.name}.*"))
        try:
            counts["second" if known.index(in_child(partial(version, target))) else "first"] += 1
        except (ValueError, OSError) as error:
            print(f"{target.name}: {error}", file=sys.stderr)
            counts["mixed"] += 1
    return {"command": target.name, "kills": num_kills, "seconds": round(min(spans), 2)} | counts


def resume(folder: Path, num_kills: int) -> dict[str, object]:
    """Kills one training again and again until it has had its epochs; are the weights those of an undisturbed one?"""
    kept = StageFolder(folder / "unfinished", every_epoch=True)
    began = time.perf_counter()
    in_child(partial(save_resumed, None, folder / "undisturbed"))
    span, kills = time.perf_counter() - began, 0
    while not (folder / "resumed").exists() and kills < num_kills:
        killed_at_random([partial(save_resumed, kept)], folder / "resumed", span / 8)
        kills += 1
    if not (folder / "resumed").exists():
        in_child(partial(save_resumed, kept, folder / "resumed"))
    first, second = (Checkpoint.load(folder / name).network.state_dict() for name in ("undisturbed", "resumed"))
    same = all(first[name].equal(second[name]) for name in first)
    return {"command": "resume", "kills": kills, "epochs": EPOCHS, "same_bits": same, "mixed": int(not same)}


def killed_at_random(works: Iterable[Work], target: Path, span: float) -> None:
    child = forked(cycle(works), target)
    time.sleep(random.uniform(0, 1.5 * span))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def in_child(work: Callable[[], T]) -> T:
    """The outcome of work that a process of its own does, or its error."""
    with ProcessPoolExecutor(1, get_context("fork")) as pool:
        return pool.submit(work).result()


def forked(works: Iterable[Work], target: Path) -> int:
    """The process id of a child that does the work and ends."""
    child = os.fork()
    if child == 0:
        is_broken = True
        try:
            for work in works:
                work(target)
            is_broken = False
        finally:
            # an error must not unwind into the parent's code, which deletes the folder that both of them use
            if is_broken:
                traceback.print_exc()
            os._exit(is_broken)
    return child


if __name__ == "__main__":
    main()
