"""recall train: from a data set to a checkpoint, and on from where an interrupted run stopped."""

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from model.data.sequences import SequenceData
from model.recipes.files import load_recipe
from model.recipes.schema import Recipe
from recall.options import takes
from recall.terminal import err, last_line, progress_bar

if TYPE_CHECKING:
    from model.checkpoint import Checkpoint
    from model.training.stages import EpochReport, StageFolder
    from model.training.warm import WarmStart

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
        Option(
            help="Name of a recipe (`recall train --help` ends with a list of them), or a .yaml file; beauty:paper "
            "has the paper's settings."
        ),
    ] = "default"
    seed: Annotated[
        int | None,
        Option(help="Seed; the same seed, machine and number of threads give the same weights. Default: 0."),
    ] = None
    device: Annotated[str, Option(help="auto, cpu or cuda; auto takes a GPU where there is one.")] = "auto"
    max_epochs: Annotated[
        int | None, Option(min=1, help="Cut every stage to this many epochs: quicker, and worse.")
    ] = None
    resume: Annotated[
        bool,
        Option(
            help="Go on after the last finished epoch of an interrupted run of the same command; --no-resume deletes "
            "what such a run has left and trains from the start."
        ),
    ] = True
    start_from: Annotated[
        Path | None,
        Option(
            help="Checkpoint whose weights the training begins with, matched by ids: new items begin among their "
            "neighbours, new users fresh, those that are gone leave. For new data of the same recipe; a fifth of its "
            "work, on histories with new events and a third of the others."
        ),
    ] = None
    refit: Annotated[
        Path | None,
        Option(
            help="Checkpoint that was chosen on these data: its epochs and its plan, trained again on train, "
            "validation and test together. For production; nothing is left to measure it by."
        ),
    ] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """One training as the options want it."""

    recipe: Recipe
    data: SequenceData
    seed: int
    device: str
    start: "WarmStart | None" = None
    chosen: "Checkpoint | None" = None  # to refit

    def run(self, on_epoch: "Callable[[EpochReport], None]", kept: "StageFolder") -> "Checkpoint":
        from model.training.fit import fit
        from model.training.refit import refit

        if self.chosen:
            return refit(self.recipe, self.data, self.chosen, self.device, on_epoch, kept, self.start)
        return fit(self.recipe, self.data, self.seed, self.device, on_epoch, kept, self.start)

    def epochs_done(self, kept: "StageFolder") -> int:
        """The epochs that an interrupted run has left."""
        from model.training.fit import epochs_done

        data = self.data.all_in_train() if self.chosen else self.data
        return epochs_done(self.planned, data, self.seed, self.device, kept, self.start, measures=not self.chosen)

    @property
    def planned(self) -> Recipe:
        """The recipe with the epochs that are run at most."""
        from model.training.refit import with_chosen_epochs

        return with_chosen_epochs(self.recipe, self.chosen.provenance.epochs) if self.chosen else self.recipe


@takes(TrainCommand)
def train(options: TrainCommand) -> None:
    """Train one arm.

    Weights, epoch and serving plan are chosen on the validation split; the test split is not read. After Ctrl-C, a
    crash or a kill the same command goes on after the last finished epoch and ends with the same weights.
    """
    from model.checkpoint import CHECKPOINT
    from model.folders.whole import check_target

    # before hours of work, not after them
    check_target(CHECKPOINT, options.output)
    training = read_training(options)
    if not options.resume:
        shutil.rmtree(unfinished_folder(options.output), ignore_errors=True)
    run_training(training, options.output)


def read_training(options: TrainCommand) -> Training:
    """Raises ValueError where the options or the checkpoints that they name do not fit together."""
    from model.checkpoint import Checkpoint
    from model.training.refit import check_chosen
    from model.training.trainer import with_epochs
    from model.training.warm import WarmStart, warm_recipe
    from service.engine.loading import choose_device

    start = WarmStart.of(Checkpoint.load(options.start_from)) if options.start_from else None
    chosen = Checkpoint.load(options.refit) if options.refit else None
    recipe = load_recipe(options.recipe, options.arm)
    data, seed = SequenceData.load(options.data), options.seed or 0
    recipe = warm_recipe(recipe, start, data) if start else recipe
    if options.max_epochs is not None:
        recipe = with_epochs(recipe, options.max_epochs)
    if chosen:
        if options.max_epochs is not None or options.seed is not None:
            raise ValueError("--refit has the seed and the epochs of its checkpoint; leave --seed and --max-epochs out")
        check_chosen(recipe, data, chosen, start)
        seed = chosen.provenance.seed
    return Training(
        recipe=recipe, data=data, seed=seed, device=choose_device(options.device), start=start, chosen=chosen
    )


def unfinished_folder(output: Path) -> Path:
    """The folder beside a checkpoint in which its training keeps what it has; gone when the checkpoint is there."""
    output = output.absolute()
    return output.with_name(f".{output.name}.unfinished")


def run_training(training: Training, output: Path) -> None:
    """Trains with a progress bar, from where an interrupted run stopped, and saves.

    Raises typer.Exit after Ctrl-C, when it has said how to go on.
    """
    from model.training.stages import StageFolder

    recipe, kept, ended = training.recipe, StageFolder(unfinished_folder(output), every_epoch=True), 0
    done = training.epochs_done(kept)
    if kept.path.exists():
        err.print(describe_unfinished(kept.path, done))
    with progress_bar() as progress:
        tasks = [
            progress.add_task(f"{recipe.arm} {'prompts' if stage.num_prompts else 'train'}", total=stage.num_epochs)
            for stage in training.planned.all_stages
        ]

        def show(report: "EpochReport") -> None:
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
            checkpoint = training.run(show, kept)
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
            "plan": describe_plan(checkpoint),
            "valid": provenance.metrics,
            **({"outcomes": checkpoint.outcomes.facts} if checkpoint.outcomes else {}),
        }
    )


def describe_plan(checkpoint: "Checkpoint") -> dict[str, Any]:
    """The whole plan that was chosen, as one flat record."""
    plan = checkpoint.plan
    return {**asdict(plan.prompts), "quotas": plan.quotas, "diversity": plan.diversity, "outcomes": plan.outcomes}


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
