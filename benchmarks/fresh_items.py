"""New items: how often those that training never saw are recalled, beside the same items when they were trained.

    python -m benchmarks.fresh_items --data runs/kuairand/data --work runs/fresh [--system sasrec] [--epochs 3]

400 items lose every event; one system is trained with them and one without, and the second gets them as new items: by
what is known of all items, by their attributes, and by the query vectors of their first 1, 3 and 10 watchers. Measured
is the recall@100 of those items among the targets of the test split, each user's history excluded, all items competing,
and the recall of all targets beside that of lists without the new items (`overall`, a relative difference): by scores
alone, and with a channel for new items.
"""

import argparse
import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from index.base import Exclusions
from index.bundle.build import build_bundle
from index.bundle.bundle import open_bundle
from index.exact import ExactIndex
from model.attributes.table import Attributes
from model.catalogue import Catalogue, IdMap, Ragged
from model.checkpoint import Checkpoint
from model.data.sequences import SequenceData
from model.encoder import UserEncoder, pin_compute_threads
from model.recipes.files import load_recipe
from model.records import History
from model.training.trainer import with_epochs
from recall.training.train import Training, run_training
from service.catalogue.changes import PutItem
from service.catalogue.slot_vectors import References, SlotVectors
from service.catalogue.state import CatalogueState
from service.engine.loading import references_of

NUM_HELD, MIN_TRAIN, MIN_TEST, K = 400, 20, 5, 100
WATCHERS = (0, 1, 3, 10)
BATCH, CHANNEL = 256, 0.05  # users that are searched together; share of a list that the channel keeps


def held_rows(data: SequenceData, seed: int) -> NDArray[np.int64]:
    """Rows of items that are watched often enough to be measured."""
    tests = np.bincount(data.test.values, minlength=len(data.catalogue.items) + 1)[1:]
    often = np.flatnonzero((data.catalogue.counts >= MIN_TRAIN) & (tests >= MIN_TEST)) + 1
    return np.sort(np.random.default_rng(seed).choice(often, NUM_HELD, replace=False))


def without(part: Ragged, rows: NDArray[np.int64]) -> Ragged:
    """The same lists without those items."""
    kept = ~np.isin(part.values, rows)
    ends = np.append(0, np.cumsum(kept))
    return Ragged(ends[part.offsets], part.values[kept])


def reduced(data: SequenceData, rows: NDArray[np.int64]) -> SequenceData:
    train, valid = without(data.train, rows), without(data.valid, rows)
    counts = np.bincount(train.values, minlength=len(data.catalogue.items) + 1)[1:].astype(np.int64)
    catalogue = replace(data.catalogue, counts=counts)
    return replace(data, train=train, valid=valid, catalogue=catalogue, outcomes={})


def encode(encoder: UserEncoder, histories: list[History]) -> NDArray[np.float32]:
    """(B, Q, D)"""
    parts = [encoder.encode(histories[start : start + BATCH]).vectors for start in range(0, len(histories), BATCH)]
    return np.concatenate(parts)


def watchers_of(data: SequenceData, held: NDArray[np.int64]) -> Mapping[int, list[tuple[int, ...]]]:
    """For each held row the histories of its first watchers in training, without held items."""
    is_held = np.zeros(len(data.catalogue.items) + 1, dtype=np.bool_)
    is_held[held] = True
    histories: dict[int, list[tuple[int, ...]]] = {row: [] for row in held.tolist()}
    for user in np.random.default_rng(1).permutation(len(data.train)).tolist():
        items = data.train[user]
        for place in np.flatnonzero(is_held[items]).tolist():
            before = items[:place][~is_held[items[:place]]]
            if len(before) and len(histories[int(items[place])]) < max(WATCHERS):
                histories[int(items[place])].append(tuple(before.tolist()))
    return histories


class Recalls(NamedTuple):
    """Recall@K of the new items among the targets, and of all targets."""

    new: float
    all: float
    new_by_channel: float  # the same with places kept for new items
    all_by_channel: float


class Setting:
    """One split into known and new items, and the users that the new ones are measured on."""

    def __init__(self, data: SequenceData, held: NDArray[np.int64]) -> None:
        self.data, self.held = data, held
        self.known = np.setdiff1d(np.arange(1, len(data.catalogue.items) + 1), held)
        users = [user for user in range(1, len(data.test) + 1) if len(data.test[user - 1])]
        self.users = np.array(users)
        self.targets = [set(data.targets(user, "test").tolist()) for user in users]
        self.held_targets = [own & set(held.tolist()) for own in self.targets]
        self.histories = [data.history(user, "test") for user in users]

    def recall(self, queries: NDArray[np.float32], table: NDArray[np.float32], without_held: bool) -> Recalls:
        """Recall@K of lists that follow scores, and of the same with the channel; queries (B, Q, D), table (N, D)."""
        index, q = ExactIndex(table), queries.shape[1]
        by_score, by_channel = np.zeros(2), np.zeros(2)
        for start in range(0, len(self.users), BATCH):
            part = range(start, min(start + BATCH, len(self.users)))
            rows = [np.union1d(self.histories[n], self.held if without_held else []).astype(np.int64) for n in part]
            own = [(n * q + step, row) for n, known in enumerate(rows) for step in range(q) for row in known.tolist()]
            pairs = np.array(own, dtype=np.int64).reshape(-1, 2)
            hit_lists = index.search(
                queries[part].reshape(-1, queries.shape[2]), K, Exclusions(pairs[:, 0], pairs[:, 1])
            )
            for n, user in enumerate(part):
                mine = slice(n * q, (n + 1) * q)
                order = np.argsort(-hit_lists.scores[mine].ravel(), kind="stable")
                listed = list(dict.fromkeys(hit_lists.rows[mine].ravel()[order].tolist()))[:K]
                by_score += self.hits(user, listed)
                with_channel = listed if without_held else self.with_channel(listed, queries[user], table, user)
                by_channel += self.hits(user, with_channel)
        sizes = [sum(map(len, self.held_targets)), sum(map(len, self.targets))]
        return Recalls(*(by_score / sizes).tolist(), *(by_channel / sizes).tolist())

    def hits(self, user: int, listed: list[int]) -> tuple[int, int]:
        """Held targets and all targets in a list."""
        return len(self.held_targets[user].intersection(listed)), len(self.targets[user].intersection(listed))

    def with_channel(
        self, listed: list[int], queries: NDArray[np.float32], table: NDArray[np.float32], user: int
    ) -> list[int]:
        """The list with its last known items replaced by the best new ones, as `--fresh-share` does it."""
        fresh = {*self.held.tolist()}
        lacking = int(CHANNEL * K) - len(fresh.intersection(listed))
        if lacking <= 0:
            return listed
        left_out = {*listed, *self.histories[user].tolist()}
        order = np.argsort(-(table[self.held - 1] @ queries.T).max(1), kind="stable")
        best = [row for row in self.held[order].tolist() if row not in left_out][:lacking]
        gone = {*[row for row in listed if row not in fresh][-len(best) :]} if best else set()
        return [row for row in listed if row not in gone] + best


def tables(
    setting: Setting, encoder: UserEncoder, table: NDArray[np.float32], references: References
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """The item table with the new items' vectors by each estimate."""
    whole = setting.data.catalogue
    ids, held = whole.items.ids, setting.held
    attributes = whole.attributes
    known = setting.known
    main = Catalogue(
        IdMap(ids[known - 1]),
        whole.users,
        reduced(setting.data, held).catalogue.counts[known - 1],
        attributes=Attributes(attributes.frame[(known - 1).tolist()]) if attributes else None,
    )
    exact = ExactIndex(np.ascontiguousarray(table[known - 1]))
    own = attributes.items(held.tolist()) if attributes else [{}] * len(held)
    described = [
        PutItem(int(ids[row - 1]), {name: value for name, value in item.items() if value is not None})
        for row, item in zip(held.tolist(), own, strict=True)
    ]
    watchers = watchers_of(setting.data, held)
    often = setting.data.catalogue.counts[held - 1].tolist()
    known_often = [
        msgspec.structs.replace(put, expected_watches=float(n)) for put, n in zip(described, often, strict=True)
    ]
    estimates = (("nothing", [PutItem(put.id) for put in described]), ("attributes", described))
    for name, puts in (*estimates, ("attributes and how often it is watched", known_often)):
        state = CatalogueState().after(enumerate(puts, start=1))
        for count in WATCHERS:
            slots = SlotVectors("system", main, exact, references)
            for number, row in enumerate(held.tolist()):
                histories = [History(items) for items in watchers[row][:count]]
                for own_queries in encode(encoder, histories) if histories else ():
                    slots.learn(number, own_queries)
            filled = table.copy()
            filled[held - 1] = slots.of(state)
            yield f"{name}, {count} watchers", filled


def measure(setting: Setting, work: Path) -> Iterator[dict[str, object]]:
    trained = UserEncoder(Checkpoint.load(work / "with"))
    histories = [History(tuple(items.tolist())) for items in setting.histories]
    best = setting.recall(encode(trained, histories), trained.item_vectors().numpy(), without_held=False)
    yield {"estimate": "trained", "recall_new": best.new, "share": 1.0, "recall_all": best.all}
    checkpoint = Checkpoint.load(work / "without")
    encoder = UserEncoder(checkpoint)
    # the bundle that would be served, for its golden vectors: they stand in where the checkpoint has no histories
    with tempfile.TemporaryDirectory() as folder:
        build_bundle(work / "without", Path(folder) / "bundle")
        references = references_of(open_bundle(Path(folder) / "bundle"), checkpoint.catalogue, encoder)
    kept = [History(tuple(items[~np.isin(items, setting.held)].tolist())) for items in setting.histories]
    queries, table = encode(encoder, kept), encoder.item_vectors().numpy()
    base = setting.recall(queries, table, without_held=True).all
    yield {"estimate": "not listed", "recall_new": 0.0, "share": 0.0, "recall_all": base}
    for name, filled in tables(setting, encoder, table, references):
        own = setting.recall(queries, filled, without_held=False)
        yield {
            "estimate": name,
            "recall_new": own.new,
            "share": own.new / best.new,
            "recall_all": own.all,
            "overall": own.all / base - 1,
            "channel": CHANNEL,
            "share_by_channel": own.new_by_channel / best.new,
            "recall_all_by_channel": own.all_by_channel,
            "overall_by_channel": own.all_by_channel / base - 1,
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--system", default="sasrec")
    parser.add_argument("--recipe", default="kuairand")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    pin_compute_threads()
    data = SequenceData.load(given.data)
    held = held_rows(data, given.seed)
    recipe = with_epochs(load_recipe(given.recipe, given.system), given.epochs)
    for name, own in (("with", data), ("without", reduced(data, held))):
        if not (given.work / name / "config.json").exists():
            run_training(Training(recipe=recipe, data=own, seed=given.seed, device="cpu"), given.work / name)
    facts = {"system": given.system, "epochs": given.epochs, "seed": given.seed, "date": date.today().isoformat()}
    rows = [row | facts | {"cores": os.cpu_count()} for row in measure(Setting(data, held), given.work)]
    for row in rows:
        print(json.dumps(row))
    if given.output:
        given.output.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
