"""The table of systems on a bare GPU machine: torch, numpy, safetensors and pyyaml are enough.

Prepare the data where polars is (`recall reproduce` leaves it in runs/data), copy those folders and model/, then:
python -m benchmarks.gpu_quality runs/data/beauty runs/data/yelp --recipe both --results quality.jsonl
The rows are those of `recall reproduce`; it skips what is there. Copied back with the settings.jsonl beside them, they
are taken over on the first machine by `--merge`. Networks of this size leave a card waiting for the host most of the
time: `--processes 12` trains so many of the runs side by side.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from model.checkpoint import Checkpoint
from model.recipes.schema import Recipe
from model.training.stages import EpochReport
from recall.reproduction.results import Results, Row
from recall.reproduction.runner import Run, RunCallbacks, RunPlan, reproduce

RECIPES = {"paper": ("paper",), "best": ("best",), "both": ("paper", "best"), "ablation": ("ablation",)}


@dataclass
class Printer(RunCallbacks):
    """One line an event; the checkpoint of each run where a folder is given."""

    checkpoints: Path | None
    num_failed: int = 0

    def skipped(self, run: Run) -> None:
        print(f"{run}: its rows are there already", flush=True)

    def started(self, run: Run, recipe: Recipe) -> None:
        print(f"{run}: {sum(stage.num_epochs for stage in recipe.all_stages)} epochs at most", flush=True)

    def epoch(self, run: Run, report: EpochReport) -> None:
        if report.metric is not None:
            print(f"{run}: epoch {report.epoch}, loss {report.loss:.4f}, validation {report.metric:.4f}", flush=True)

    def trained(self, run: Run, checkpoint: Checkpoint) -> str | None:
        if self.checkpoints:
            checkpoint.save(self.checkpoints / run.slug)
        return None

    def finished(self, run: Run, rows: Sequence[Row]) -> None:
        print(f"{run}: {rows[0].seconds} s, {dict(rows[0].metrics)}", flush=True)

    def failed(self, run: Run, reason: str) -> None:
        self.num_failed += 1
        print(f"{run} failed: {reason}", flush=True)


def words(text: str) -> list[str]:
    return text.split(",")


def share(text: str) -> tuple[int, int]:
    number, _, processes = text.partition("/")
    return int(number), int(processes)


def side_by_side(arguments: Sequence[str], processes: int) -> int:
    """Runs this script as several processes that share its runs; the highest exit status."""
    command = [sys.executable, "-m", "benchmarks.gpu_quality", *arguments, "--processes", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([*command, "--share", f"{number}/{processes}"], env=environment) for number in range(processes)
    ]
    return max(process.wait() for process in started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, nargs="*", help="prepared folders; a folder's name is its data set's")
    parser.add_argument("--results", type=Path, default=Path("quality.jsonl"))
    parser.add_argument("--merge", type=Path, help="a file of rows to take over into --results, before any run")
    parser.add_argument("--systems", type=words, help="with commas; default: all of the recipe")
    parser.add_argument("--recipe", choices=RECIPES, default="both")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--max-epochs", type=int)
    parser.add_argument("--checkpoints", type=Path, help="folder for the checkpoint of each run")
    parser.add_argument("--stages", type=Path, help="folder of finished stages: what several systems share trains once")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--processes", type=int, default=1, help="that share the runs, each with one thread")
    parser.add_argument("--share", type=share, default=(0, 1), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.processes > 1:
        sys.exit(side_by_side(sys.argv[1:], given.processes))
    results, printer = Results(given.results), Printer(given.checkpoints)
    if given.merge:
        results.append(Results(given.merge).rows())
    plan = RunPlan(
        datasets={folder.name: folder for folder in given.data},
        systems=given.systems,
        recipes=RECIPES[given.recipe],
        num_seeds=given.seeds,
        max_epochs=given.max_epochs,
        device=given.device,
        stages=given.stages,
        share=given.share,
    )
    reproduce(plan, results, printer)
    sys.exit(1 if printer.num_failed else 0)


if __name__ == "__main__":
    main()
