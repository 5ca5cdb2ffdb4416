"""The cost of a request in encode and search, system by system, against one plain decoder.

Weights are fresh: only sizes count. One compute thread and the fixed passes of the service (model/encoder.py,
index/exact.py): histories of 50 in batches of 64, 100 candidates, one step. The systems are measured in turn, round
after round, so that noise meets all alike.

    python -m benchmarks.serving_cost --recipe beauty --items 12101
"""

import argparse
import json
import statistics
import time
from dataclasses import dataclass

import numpy as np
import torch

from index.exact import ExactIndex
from model.catalogue import Catalogue, IdMap
from model.checkpoint import Checkpoint, Provenance
from model.encoder import UserEncoder, pin_compute_threads
from model.networks import build_network
from model.recipes.files import load_recipe
from model.recipes.schema import Recipe
from model.records import History, PromptPlan, ServingPlan

LENGTH, BATCH, CANDIDATES = 50, 64, 100


@dataclass(frozen=True)
class System:
    name: str
    encoder: UserEncoder
    index: ExactIndex

    @classmethod
    def of(cls, name: str, recipe: Recipe, num_items: int, plan: PromptPlan) -> "System":
        settings = {**recipe.network, "num_items": num_items}
        if recipe.parts:
            settings["parts"] = [{"system": part.system, "network": part.network} for part in recipe.parts]
        items = Catalogue(IdMap.of(range(num_items)), IdMap.of([]), np.ones(num_items, dtype=np.int64))
        network = build_network(recipe.system, settings)
        encoder = UserEncoder(Checkpoint(network, ServingPlan(plan), items, Provenance("", "", recipe.name, 0, "")))
        return cls(name, encoder, ExactIndex(encoder.item_vectors().numpy()))

    def microseconds(self, histories: list[History]) -> tuple[float, float]:
        """Encode and search, microseconds a user."""
        started = time.perf_counter()
        vectors = self.encoder.encode(histories).vectors
        encoded = time.perf_counter()
        self.index.search(vectors.reshape(-1, vectors.shape[-1]), CANDIDATES)
        searched = time.perf_counter()
        return (encoded - started) / len(histories) * 1e6, (searched - encoded) / len(histories) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="beauty")
    parser.add_argument("--items", type=int, default=12_101)
    parser.add_argument(
        "--systems", default="recgpt-pretrain,sasrec,fism,comirec,recgpt", help="the first is the measure"
    )
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    pin_compute_threads()
    torch.manual_seed(0)
    plan = PromptPlan()
    recipes = {name: load_recipe(options.recipe, name) for name in options.systems.split(",")}
    systems = [System.of(name, recipe, options.items, plan) for name, recipe in recipes.items()]
    rng = np.random.default_rng(0)
    histories = [History(tuple(rng.integers(1, options.items + 1, LENGTH).tolist())) for _ in range(BATCH)]
    for system in systems:
        system.microseconds(histories)
    rounds = [[system.microseconds(histories) for system in systems] for _ in range(options.rounds)]
    rows = []
    for number, system in enumerate(systems):
        encode, search = (statistics.median(times[number][part] for times in rounds) for part in (0, 1))
        ratio = statistics.median(sum(times[number]) / sum(times[0]) for times in rounds)
        rows.append({"system": system.name, "encode_us": round(encode), "search_us": round(search), "times": ratio})
        print(f"{system.name:18} encode {encode:7.0f} us  search {search:7.0f} us  {ratio:.2f} x {systems[0].name}")
    print(json.dumps({"recipe": options.recipe, "items": options.items, "rows": rows, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
