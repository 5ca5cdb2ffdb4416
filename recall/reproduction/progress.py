"""Progress and records of the runs of `recall reproduce`. Imports torch; commands import this file when they run."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.progress import Progress, TaskID

from index.bundle.build import build_bundle
from model.checkpoint import Checkpoint
from model.recipes.schema import Recipe
from model.training.stages import EpochReport
from recall.reproduction.results import Row
from recall.reproduction.runner import Run, RunCallbacks


@dataclass
class ProgressCallbacks(RunCallbacks):
    """Progress bars, a journal of what happened, checkpoints of seed 0, and bundles where they are wanted."""

    progress: Progress
    work: Path
    num_runs: int
    bundles: Path | None = None
    num_failed: int = 0
    _tasks: list[TaskID] = field(default_factory=list)  # of the stages of the run under way

    def __post_init__(self) -> None:
        self.work.mkdir(parents=True, exist_ok=True)
        self._table = self.progress.add_task("runs", total=self.num_runs)

    def skipped(self, run: Run) -> None:
        self._say(f"{run}: its rows are there already, skipped")
        self.progress.advance(self._table)

    def started(self, run: Run, recipe: Recipe) -> None:
        self._note(run, "started")
        self._tasks = [
            self.progress.add_task(f"{run.system}, stage {number}", total=stage.num_epochs)
            for number, stage in enumerate(recipe.all_stages, 1)
        ]

    def epoch(self, run: Run, report: EpochReport) -> None:
        self.progress.update(self._tasks[report.stage], completed=report.epoch)
        self._note(run, "epoch", stage=report.stage, epoch=report.epoch, loss=report.loss, metric=report.metric)

    def trained(self, run: Run, checkpoint: Checkpoint) -> str | None:
        self._note(run, "trained", seconds=checkpoint.provenance.training_seconds)
        if self.bundles is None and run.seed:
            return None
        folder = checkpoint_folder(self.work, run)
        checkpoint.save(folder)
        return build_bundle(folder, self.bundles / run.slug).digest if self.bundles else None

    def finished(self, run: Run, rows: Sequence[Row]) -> None:
        first = ", ".join(f"{name} {value:.4f}" for name, value in list(rows[0].metrics.items())[:4])
        self._say(f"{run}: {first}; {rows[0].seconds or 0:,.0f} s")
        self._note(run, "finished", rows=len(rows))
        self._end()

    def failed(self, run: Run, reason: str) -> None:
        self.num_failed += 1
        self._say(f"{run} failed: {reason}")
        self._note(run, "failed", reason=reason)
        self._end()

    def _end(self) -> None:
        for task in self._tasks:
            self.progress.remove_task(task)
        self._tasks = []
        self.progress.advance(self._table)

    def _say(self, text: str) -> None:
        self.progress.console.print(text, markup=False)

    def _note(self, run: Run, event: str, **facts: object) -> None:
        line = {"time": round(time.time(), 1), "run": str(run), "event": event} | facts
        with (self.work / "journal.jsonl").open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(line) + "\n")


def checkpoint_folder(work: Path, run: Run) -> Path:
    return work / "checkpoints" / run.slug
