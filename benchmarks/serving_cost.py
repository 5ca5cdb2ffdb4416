"""The cost of a request in encode and search, system by system, against one plain decoder.

Weights are fresh: only sizes count. One compute thread and the fixed passes of the service (model/encoder.py,
index/exact.py): histories of 50 in batches of 64, 100 candidates, one step. The systems are measured in turn, round
after round, so that noise meets all alike. `--soft 1,6`: also recgpt with so many soft items behind the history, the
states before and behind each in one query.

    python -m benchmarks.serving_cost --recipe beauty --items 12101
    python -m benchmarks.serving_cost --recipe kuairand --items 7583 --soft 1,2,6
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
from model.records import History, PromptForm, PromptPlan, ServingPlan
from recall.reproduction.facts import machine

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


def soft_plan(num_items: int) -> PromptPlan:
    """So many soft items, the states before and behind each in one query."""
    weights = (1.0, *[0.5] * num_items)
    return PromptPlan(num_steps=1 + num_items, form=PromptForm.SOFT, temperature=1.5, step_weights=weights)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="beauty")
    parser.add_argument("--items", type=int, default=12_101)
    parser.add_argument(
        "--systems", default="recgpt-pretrain,sasrec,fism,comirec,recgpt", help="the first is the measure"
    )
    parser.add_argument("--soft", default="", help="numbers of soft items, with commas: recgpt with each, beside them")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    pin_compute_threads()
    torch.manual_seed(0)
    recipes = {name: load_recipe(options.recipe, name) for name in options.systems.split(",")}
    systems = [System.of(name, recipe, options.items, PromptPlan()) for name, recipe in recipes.items()]
    systems += [
        System.of(f"recgpt, soft K = {count}", load_recipe(options.recipe, "recgpt"), options.items, soft_plan(count))
        for count in map(int, filter(None, options.soft.split(",")))
    ]
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
        print(f"{system.name:19} encode {encode:7.0f} us  search {search:7.0f} us  {ratio:.2f} x {systems[0].name}")
    told = {"recipe": options.recipe, "items": options.items, "rounds": options.rounds, "rows": rows}
    told |= {"machine": machine("cpu"), "torch": torch.__version__}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
