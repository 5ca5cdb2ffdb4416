"""The paper's study of K and its grid m : n with both forms of generated items, argmax and soft, on validation.

    python -m benchmarks.forms --recipe RECIPE --checkpoint CHECKPOINT --data DATA --stages STAGES \\
        --output benchmarks/results/forms.jsonl

CHECKPOINT is a blend that `recall train recgpt --recipe RECIPE` wrote for DATA. Its decoder is tuned for an epoch with
six generated items, once for each form, and once without any; such a network is asked with K = 0 .. 6 items (`WAYS`).
The weights of the blend stay. Each way is measured on the blend and on the decoder alone, a row each; `gain` is against
the answer of CHECKPOINT without generation. Points that the file has are not measured again. docs/quality.md shows the
figures that are drawn from the rows.
"""

import argparse
import datetime
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch

from model.batch import Batch, Queries
from model.checkpoint import Checkpoint
from model.data.sequences import SequenceData
from model.encoder import pin_compute_threads
from model.evaluation.comparison import ListPair, compare
from model.evaluation.protocol import EvalSplit, TopLists, top_lists
from model.generation.greedy import NextItem
from model.networks.base import Network
from model.networks.blend import Blend
from model.recipes.files import load_recipe
from model.recipes.schema import Recipe, Stage
from model.records import Placement, PromptForm, PromptPlan, ServingPlan
from model.training.stages import EpochReport, StageFolder
from model.training.trainer import Trainer
from model.training.warm import WarmStart
from recall.comparing import facts
from recall.reproduction.facts import machine, versions
from recall.reproduction.measure import MEASURES, Measures, measure_lists

MAX_PROMPTS = 6  # K of the paper
TEMPERATURE, WEIGHT = 1.5, 0.5  # of soft items, and of each step behind the first in a mean, the first's is 1
RATE = 0.0005  # of tuning
GRID = {10: 1, 20: 2, 100: 10}  # m + n, and by how much m grows: up to 20 in the paper, 100 at recall depth
# at recall depth too, where the table of results has short lists of one target
WANTED = MEASURES | {"leave-one-out": Measures(("recall", "ndcg"), (10, 50, 100))}
RESAMPLES = 1_999  # of the bootstrap behind the standard errors
SYSTEMS = ("blend", "decoder alone")
GENERATION = PromptPlan(num_steps=2, form=PromptForm.SOFT, temperature=TEMPERATURE)


def argmax(count: int) -> PromptPlan:
    """The paper's Algorithm 1: K items before each real one but the first."""
    return PromptPlan(count, Placement.ALL) if count else PromptPlan()


def soft(count: int) -> PromptPlan:
    """The state behind K soft items, which follow the end of the history."""
    return replace(GENERATION, num_prompts=count, placement=Placement.TAIL, num_steps=1) if count else PromptPlan()


def averaged(count: int, form: PromptForm = PromptForm.SOFT) -> PromptPlan:
    """The weighted mean of the states before and behind each of K items of a form as one query."""
    if not count:
        return PromptPlan()
    # a mean, not a sum: a sum would have the decoder weigh more against the other parts of the blend
    whole = 1 + WEIGHT * count
    return replace(GENERATION, form=form, num_steps=1 + count, step_weights=(1 / whole, *[WEIGHT / whole] * count))


@dataclass(frozen=True)
class Way:
    """Generated items of one form, and the tuning that came before; None = as trained."""

    name: str
    plan: Callable[[int], PromptPlan]
    stage: Stage | None = None
    largest: int = MAX_PROMPTS  # K


ONE_EPOCH = Stage(num_epochs=1, learning_rate=RATE)
TUNED_SOFT = replace(ONE_EPOCH, num_steps=1 + MAX_PROMPTS)
WAYS = (
    Way("argmax, mean of the steps, nothing tuned", partial(averaged, form=PromptForm.ARGMAX)),
    Way("soft, mean of the steps, nothing tuned", averaged),
    Way("tuned without generation", soft, ONE_EPOCH, largest=0),
    Way("soft", soft, TUNED_SOFT),
    Way("soft, mean of the steps", averaged, TUNED_SOFT),
    Way("argmax", argmax, replace(ONE_EPOCH, num_prompts=MAX_PROMPTS)),
)
# two steps, the second behind one generated item; the argument is not used: K is 1
GRIDS = (
    Way("argmax, nothing tuned", lambda _: PromptPlan(num_steps=2)),
    Way("soft, nothing tuned", lambda _: GENERATION),
    Way("soft", lambda _: GENERATION, TUNED_SOFT),
)


class Beside(Blend):
    """A blend that gives the vectors of its answer, then those of the part that generates alone, in the same width."""

    def queries(self, batch: Batch, plan: PromptPlan, next_item: NextItem | None = None) -> Queries:
        whole = super().queries(batch, plan, next_item)
        widths = [part.item_vectors().shape[1] for part in self.parts]  # type: ignore[operator]
        kept = [torch.full((width,), bool(part.generates)) for width, part in zip(widths, self.parts, strict=True)]
        # a part whose numbers are 0 scores nothing
        alone = whole.vectors * torch.cat(kept).to(whole.vectors)
        return Queries(torch.cat([whole.vectors, alone], 1), whole.prompts)


@dataclass(frozen=True)
class Forms:
    """One checkpoint, what is tuned from it, and the validation split."""

    recipe: Recipe
    checkpoint: Checkpoint
    data: SequenceData
    stages: StageFolder
    max_users: int | None = None  # drawn at random, the same for every point

    def __post_init__(self) -> None:
        if not isinstance(self.checkpoint.network, Blend) or not self.recipe.parts:
            raise ValueError("the checkpoint is no blend with a part that generates; train recgpt of such a recipe")

    @cached_property
    def split(self) -> EvalSplit:
        return EvalSplit.of(self.data, "valid", self.max_users)

    @property
    def blend(self) -> Blend:
        network = self.checkpoint.network
        assert isinstance(network, Blend)
        return network

    def network(self, stage: Stage | None) -> Beside:
        """The blend, its decoder tuned by `stage`; all other weights as they are."""
        decoder = self.tuned(stage) if stage else self.blend.generating
        parts = [decoder if part is self.blend.generating else part for part in self.blend.parts]
        beside = Beside(self.blend.config, parts)  # type: ignore[arg-type]  # ModuleList has no type of member
        beside.weights.copy_(self.blend.weights)
        return beside.eval()

    def tuned(self, stage: Stage) -> Network:
        """The decoder after all epochs of a stage on whole histories; nothing is measured and nothing chosen."""
        [part] = [part for part in self.recipe.parts if part.system == self.blend.generating.kind]
        plan = replace(part.plan, temperature=TEMPERATURE)
        recipe = replace(part, stages=(stage,), samples="windows", plan=plan)
        # a stage as any other: all histories in each epoch
        start = WarmStart(self.blend.generating, self.checkpoint.catalogue, replay=1.0)
        seed = self.checkpoint.provenance.seed
        trainer = Trainer(recipe, self.data, seed, kept=self.stages, start=start, measures=False)
        return trainer.train_through(lambda report: say(stage, report))


def say(stage: Stage, report: EpochReport) -> None:
    told = {"prompts": stage.num_prompts, "steps": stage.num_steps, "loss": report.loss, "seconds": report.seconds}
    print(json.dumps({"tuned": told}), flush=True)


def sides(lists: TopLists, num_vectors: int) -> dict[str, TopLists]:
    """The lists of the blend and of its decoder alone, which `Beside` gives together."""
    places = (slice(num_vectors), slice(num_vectors, None))
    return {
        name: replace(lists, rows=lists.rows[:, place], scores=lists.scores[:, place])
        for name, place in zip(SYSTEMS, places, strict=True)
    }


def study_of_k(forms: Forms, known: set[str]) -> Iterator[list[dict[str, Any]]]:
    """The rows of both systems for each way and K that is not known."""
    split, wanted = forms.split, WANTED[forms.data.protocol]
    depth = wanted.cutoffs[-1]  # the length of lists at which the gain is told
    targets = [forms.data.targets(user, "valid") for user in split.users.tolist()]
    plain = sides(top_lists(forms.network(None), split, PromptPlan(), wanted.cutoffs[-1]), 1)
    for way in WAYS:
        counts = [k for k in range(1 + way.largest) if key_of("K", forms.data.name, way, {"K": k}) not in known]
        network = forms.network(way.stage) if counts else None
        for count in counts:
            assert network is not None
            started = time.perf_counter()
            plan = ServingPlan(way.plan(count))
            both = sides(top_lists(network, split, plan.prompts, wanted.cutoffs[-1]), 1)
            seconds = round(time.perf_counter() - started, 1)
            rows = []
            for name, lists in both.items():
                pair = ListPair(lists.merged(plan, depth), plain[name].merged(ServingPlan(), depth))
                told = {
                    "cutoff": depth,
                    **facts(compare([pair], targets, resamples=RESAMPLES)),
                    "list_seconds": seconds,
                }
                metrics = measure_lists(lists, plan, split, wanted)
                place = row_of("K", forms.data.name, way, {"K": count})
                rows.append(place | {"system": name, "metrics": metrics} | told)
            yield rows


def study_of_quotas(forms: Forms, known: set[str]) -> Iterator[list[dict[str, Any]]]:
    """The rows of both systems for each way and m : n that is not known; n = 0 is the first vector alone."""
    split, longest = forms.split, max(GRID)
    for way in GRIDS:
        points = [{"m": m, "n": k - m} for k, step in GRID.items() for m in range(step, k + 1, step)]
        points = [point for point in points if key_of("m : n", forms.data.name, way, point) not in known]
        if not points:
            continue
        network, prompts = forms.network(way.stage), way.plan(1)
        both = sides(top_lists(network, split, prompts, longest), prompts.num_vectors)
        first = sides(top_lists(network, split, PromptPlan(), longest), 1)
        for point in points:
            m, n = point["m"], point["n"]
            plan = ServingPlan(prompts, (m, n)) if n else ServingPlan()
            wanted = Measures(("recall", "ndcg"), (m + n,))
            yield [
                row_of("m : n", forms.data.name, way, point)
                | {"system": name, "metrics": measure_lists(lists, plan, split, wanted)}
                for name, lists in (both if n else first).items()
            ]


def row_of(study: str, dataset: str, way: Way, point: dict[str, int]) -> dict[str, Any]:
    return {"study": study, "data_set": dataset, "form": way.name, **point}


def key_of(study: str, dataset: str, way: Way, point: dict[str, int]) -> str:
    return json.dumps(row_of(study, dataset, way, point))


def known_points(path: Path, data_digest: str) -> set[str]:
    """The points that a file of rows has for these data."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    rows = [row for row in map(json.loads, lines) if row["data"] == data_digest]
    names = ("study", "data_set", "form", "K", "m", "n")
    return {json.dumps({name: row[name] for name in names if name in row}) for row in rows}


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", required=True)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--stages", type=Path, required=True, help="finished tunings lie there; an interrupted one too")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--max-users", type=int, help="measure so many users, drawn at random")
    options = parser.parse_args(words)
    pin_compute_threads()
    checkpoint, data = Checkpoint.load(options.checkpoint), SequenceData.load(options.data)
    if checkpoint.provenance.data_digest != data.digest:
        raise ValueError(f"the checkpoint was trained on {checkpoint.provenance.data_name}, other data than these")
    stages = StageFolder(options.stages, every_epoch=True)
    forms = Forms(load_recipe(options.recipe, "recgpt"), checkpoint, data, stages, options.max_users)
    known = known_points(options.output, data.digest)
    where = {"recipe": options.recipe, "seed": checkpoint.provenance.seed, "data": data.digest}
    where |= {"machine": machine("cpu"), "versions": versions(), "tuned_rate": RATE, "users": len(forms.split.users)}
    for study in (study_of_quotas, study_of_k):
        for rows in study(forms, known):
            date = datetime.datetime.now(datetime.UTC).date().isoformat()
            print(json.dumps(rows), flush=True)
            # both or none: a point counts as measured with either
            with options.output.open("a", encoding="utf-8") as file:
                file.write("".join(json.dumps(row | where | {"date": date}) + "\n" for row in rows))


if __name__ == "__main__":
    main()
