"""Seconds of a training epoch: ours against the plain way, same network, same optimiser, in one run.

Plain: histories padded to 50, fp32, scores of every padded position against the whole catalogue in one matrix, torch's
own cross-entropy. Ours: batches of similar length, bf16 products, scores in chunks (model/training/losses.py). The
plain way is measured on random batches and scaled to the epoch; ours runs a whole one.

    python -m benchmarks.training_speed --data runs/beauty/data
"""

import argparse
import json
import platform
import resource
import statistics
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from model.batch import Batch
from model.data.sequences import SequenceData
from model.networks.recgpt import RecGPT
from model.recipes.schema import Recipe, Stage
from model.training.stages import EpochReport
from model.training.trainer import Trainer

BATCH_USERS, MAX_LENGTH = 256, 50


def trainer_of(data: SequenceData, seed: int) -> Trainer:
    network = {"dim": 64, "num_layers": 2, "num_heads": 2, "user_dropout": 0.95}
    stages = (Stage(num_epochs=1),)
    recipe = Recipe(name="speed", arm="recgpt", system="recgpt", network=network, stages=stages)
    return Trainer(recipe, data, seed, measures=False)


def ours(trainer: Trainer) -> float:
    """Seconds of one epoch, optimiser and averaged weights included, measuring apart."""
    reports: list[EpochReport] = []
    trainer.train_through(reports.append)
    return reports[0].seconds


def plain_step(trainer: Trainer, optimizer: torch.optim.Optimizer, users: list[int]) -> float:
    """Seconds of one batch."""
    rows = torch.zeros(len(users), MAX_LENGTH + 1, dtype=torch.int64)
    for row, user in zip(rows, users, strict=True):
        kept = trainer.windows.rows[user][-(MAX_LENGTH + 1) :]
        row[: len(kept)] = torch.from_numpy(np.asarray(kept, dtype=np.int64))
    started = time.perf_counter()
    network = trainer.network.train()
    assert isinstance(network, RecGPT)
    inputs = Batch(rows[:, :-1], (rows[:, :-1] > 0).sum(1), torch.zeros(len(users), dtype=torch.int64))
    states = network.states(network.plain_tokens(inputs), inputs.users)  # (B, 51, D)
    scores = states @ network.item_vectors().T  # (B, 51, N)
    loss = F.cross_entropy(scores.flatten(0, 1), rows.flatten() - 1, ignore_index=-1)
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]  # of torch
    optimizer.step()
    return time.perf_counter() - started


def plain(trainer: Trainer, num_batches: int) -> float:
    """Seconds of an epoch, from the median of a few batches after one to warm up."""
    optimizer = torch.optim.AdamW(trainer.network.parameters())
    order = np.random.default_rng(trainer.seed).permutation(len(trainer.windows.rows))
    batches = [order[i : i + BATCH_USERS].tolist() for i in range(0, len(order), BATCH_USERS)]
    seconds = [plain_step(trainer, optimizer, users) for users in batches[: num_batches + 1]]
    return statistics.median(seconds[1:]) * len(order) / BATCH_USERS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that `recall prepare` wrote")
    parser.add_argument("--batches", type=int, default=5, help="of the plain way")
    parser.add_argument("--runs", type=int, default=3)
    options = parser.parse_args()
    data = SequenceData.load(options.data)
    ratios, epochs = [], []
    for seed in range(options.runs):
        fast = ours(trainer_of(data, seed))
        peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        slow = plain(trainer_of(data, seed), options.batches)
        epochs.append({"ours_s": round(fast, 2), "plain_s": round(slow, 2), "peak_mb_so_far": round(peak_mb)})
        ratios.append(slow / fast)
        print(epochs[-1])
    facts = {"data": data.digest, "torch": torch.__version__, "threads": torch.get_num_threads()}
    print(json.dumps({"times": statistics.median(ratios), "runs": epochs, **facts, "processor": platform.machine()}))


if __name__ == "__main__":
    main()
