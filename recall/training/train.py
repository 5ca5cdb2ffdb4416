"""recall train: from a data set to a checkpoint, and on from where an interrupted run stopped."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from model.data.sequences import SequenceData
from model.recipes.files import load_recipe
from model.recipes.schema import Recipe
from recall.options import takes
from recall.terminal import err, last_line, progress_bar

Option = typer.Option
INTERRUPTED = 130  # the exit status that shells give Ctrl-C


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainCommand:
    """The options of `recall train`."""

    arm: Annotated[str, typer.Argument(help="Section of the recipe: recgpt, comirec, sasrec, ..")]
    data: Annotated[Path, Option("--data", help="Folder that `recall prepare` wrote.")]
    output: Annotated[Path, Option(help="Checkpoint folder to write; an older one there is replaced in one step.")]
    recipe: Annotated[
        str,
        Option(help="Name of a recipe (demo, beauty, kuairand, default) or a .yaml file; beauty:paper is the paper's."),
    ] = "default"
    seed: Annotated[int, Option(help="Seed; the same seed, machine and number of threads give the same weights.")] = 0
    device: Annotated[str, Option(help="auto, cpu or cuda; auto takes a GPU where there is one.")] = "auto"
    max_epochs: Annotated[int | None, Option(help="Cut every stage to this many epochs: quicker, and worse.")] = None
    resume: Annotated[
        bool,
        Option(help="Go on after the last epoch of an interrupted run of the same command, or train from the start."),
    ] = True


@takes(TrainCommand)
def train(options: TrainCommand) -> None:
    """Train one arm.

    Weights, epoch and serving plan are chosen on the validation split; the test split is not read. After Ctrl-C, a
    crash or a kill the same command goes on after the last finished epoch and ends with the same weights.
    """
    from model.checkpoint import CHECKPOINT
    from model.folders.whole import check_target
    from model.training.trainer import with_epochs
    from service.engine.loading import choose_device

    # before hours of work, not after them
    check_target(CHECKPOINT, options.output)
    chosen = load_recipe(options.recipe, options.arm)
    chosen = with_epochs(chosen, options.max_epochs) if options.max_epochs is not None else chosen
    if not options.resume:
        shutil.rmtree(unfinished_folder(options.output), ignore_errors=True)
    data = SequenceData.load(options.data)
    run_training(chosen, data, options.output, options.seed, choose_device(options.device))


def unfinished_folder(output: Path) -> Path:
    """The folder beside a checkpoint in which its training keeps what it has; gone when the checkpoint is there."""
    output = output.absolute()
    return output.with_name(f".{output.name}.unfinished")


def run_training(recipe: Recipe, data: SequenceData, output: Path, seed: int, device: str) -> None:
    """Trains with a progress bar, from where an interrupted run stopped, and saves.

    Raises typer.Exit after Ctrl-C, when it has said how to go on.
    """
    from model.training.fit import epochs_done, fit
    from model.training.stages import EpochReport, StageFolder

    kept, ended = StageFolder(unfinished_folder(output), every_epoch=True), 0
    done = epochs_done(recipe, data, seed, device, kept)
    if kept.path.exists():
        err.print(describe_unfinished(kept.path, done))
    with progress_bar() as progress:
        tasks = [
            progress.add_task(f"{recipe.arm} {'prompts' if stage.num_prompts else 'train'}", total=stage.num_epochs)
            for stage in recipe.all_stages
        ]

        def show(report: EpochReport) -> None:
            nonlocal ended
            ended += 1
            measured = f"  {recipe.metric} {report.metric:.4f}" if report.metric is not None else ""
            progress.update(tasks[report.stage], completed=report.epoch)
            if ended <= done:  # in an earlier run, which has shown it
                return
            progress.console.print(
                f"{recipe.arm} epoch {report.epoch}: loss {report.loss:.4f}, {report.seconds:.1f} s{measured}"
            )

        try:
            checkpoint = fit(recipe, data, seed, device, show, kept)
        except KeyboardInterrupt:
            progress.stop()
            err.print(describe_interruption(ended))
            raise typer.Exit(INTERRUPTED) from None
    checkpoint.save(output)
    shutil.rmtree(kept.path, ignore_errors=True)
    provenance = checkpoint.provenance
    last_line(
        {
            "checkpoint": str(output),
            "seconds": round(provenance.training_seconds, 1),
            "plan": {"quotas": checkpoint.plan.quotas, "num_prompts": checkpoint.plan.prompts.num_prompts},
            "valid": provenance.metrics,
        }
    )


def describe_unfinished(folder: Path, num_epochs: int) -> str:
    """The sentence about what an interrupted run has left."""
    if num_epochs:
        return f"goes on after the {num_epochs} epochs of an interrupted run, kept in {folder}"
    return (
        f"{folder} keeps an interrupted run of another recipe, data set, seed, device, number of threads or version; "
        "this run starts at the first epoch"
    )


def describe_interruption(num_epochs: int) -> str:
    """The sentence after Ctrl-C."""
    if not num_epochs:
        return "interrupted before the end of the first epoch: nothing is kept"
    return f"interrupted after {num_epochs} epochs, which are kept: the same command goes on from there"
