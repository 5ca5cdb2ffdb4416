"""Measures where a generated soft item pays: recall@100 of two steps in one sum against the first vector alone.

    python -m benchmarks.generation --checkpoint CHECKPOINT --data DATA [--output benchmarks/results/generation.jsonl]

CHECKPOINT is a blend that `recall train recgpt --recipe kuairand` wrote for DATA. Its decoder alone and the whole blend
answer on the validation split, for all users and by the length of their history; nothing is trained. The figure that
docs/quality.md shows is drawn from these rows.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from model.checkpoint import Checkpoint
from model.data.sequences import SequenceData
from model.encoder import pin_compute_threads
from model.evaluation.comparison import ListPair, compare
from model.evaluation.groups import by_history
from model.evaluation.protocol import EvalSplit
from model.networks.blend import Blend
from model.records import PromptForm, PromptPlan, ServingPlan
from recall.comparing import facts, first_vector, measure
from recall.reproduction.facts import machine, versions

CUTOFF, TEMPERATURE, WEIGHT = 100, 1.5, 0.5
TWO_STEPS = ServingPlan(
    PromptPlan(num_steps=2, form=PromptForm.SOFT, temperature=TEMPERATURE, step_weights=(1.0, WEIGHT))
)
EVERYBODY = "all"


def systems_of(checkpoint: Checkpoint) -> Iterator[tuple[str, Checkpoint]]:
    """The part that generates, alone, then the blend that it is a part of. Raises ValueError for another checkpoint."""
    parts = [*checkpoint.network.parts] if isinstance(checkpoint.network, Blend) else []
    generators = [part for part in parts if part.generates]
    if not generators:
        raise ValueError("the checkpoint is no blend with a part that generates; train recgpt of the recipe kuairand")
    yield "decoder alone", replace(checkpoint, network=generators[0], plan=TWO_STEPS, outcomes=None)
    yield "blend", replace(checkpoint, plan=TWO_STEPS)


def rows_of(checkpoint: Checkpoint, data: SequenceData) -> Iterator[dict[str, Any]]:
    """A row for all users and one for each length of histories, of both systems."""
    eval_split = EvalSplit.of(data, "valid")
    for name, system in systems_of(checkpoint):
        [pair] = measure([system], [first_vector(system)], eval_split, [CUTOFF])[CUTOFF]
        targets = [data.targets(user, "valid") for user in eval_split.users.tolist()]
        told = {"system": name, "temperature": TEMPERATURE, "weight": WEIGHT, "cutoff": CUTOFF}
        yield told | {"history": EVERYBODY, "users": len(targets), **facts(compare([pair], targets))}
        for group in by_history(eval_split):
            own = ListPair(group.of(pair.ours), group.of(pair.theirs))
            yield (told | {"history": group.label, "users": len(group.users)} | facts(compare([own], group.targets)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    pin_compute_threads()
    checkpoint, data = Checkpoint.load(options.checkpoint), SequenceData.load(options.data)
    where = {"seed": checkpoint.provenance.seed, "data": data.digest, "machine": machine("cpu"), "versions": versions()}
    rows = []
    for row in rows_of(checkpoint, data):
        rows.append(row | where)
        print(json.dumps(row), flush=True)
    if options.output:
        options.output.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
