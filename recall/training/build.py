"""recall build and evaluate: from a checkpoint to a bundle and its measured quality."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from model.data.sequences import SequenceData, Split
from recall.comparing import BY_HELP, checked_groupings, show_groups
from recall.options import takes
from recall.terminal import err, last_line, out, progress_bar
from recall.training.plans import save_with_plan

if TYPE_CHECKING:
    from service.engine.offline import OutcomeRecall

Option = typer.Option
DataFolder = Annotated[Path, Option("--data", help="Folder that `recall prepare` wrote.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildCommand:
    """The options of `recall build`."""

    checkpoint: Annotated[Path, Option(help="Checkpoint folder that `recall train` wrote.")]
    output: Annotated[Path, Option(help="Bundle folder to write; an older bundle there is replaced in one step.")]
    index: Annotated[
        str,
        Option(
            help="exact; auto, the fastest that finds enough of the exact hits, exact while that is cheap; or a FAISS "
            "factory string such as IVF1024,Flat: faster on millions of items, not exact."
        ),
    ] = "exact"
    recall_floor: Annotated[
        float, Option(min=0.5, max=1.0, help="Share of the 100 exact hits that auto has to find.")
    ] = 0.97
    max_index_mb: Annotated[int | None, Option(min=1, help="Memory that auto may take, in MB. Default: any.")] = None
    sign_key: Annotated[
        Path | None, Option(help="PEM file of a private ed25519 key: signs it, for `recall serve --trust-key`.")
    ] = None
    golden_from: Annotated[
        Path | None,
        Option(help="File of histories that a service with --golden-share kept: golden queries beside the drawn ones."),
    ] = None
    plan: Annotated[
        list[str] | None,
        Option(
            help="Another plan than the checkpoint's, to serve one network as two arms; NAME=VALUE, may be repeated: "
            "num_prompts, placement, num_steps, form, temperature, step_weights, quotas, diversity, outcomes=like:1."
        ),
    ] = None


@takes(BuildCommand)
def build(options: BuildCommand) -> None:
    """Make a bundle to serve.

    It holds weights, item vectors, index and golden queries under one checksum; `recall serve` loads it.
    """
    from index.auto import IndexRequirements
    from index.bundle.build import build_bundle
    from index.bundle.signature import SigningKey
    from model.recorded import read_recorded

    # before the work: a mistake is told at once
    signing = SigningKey.read(options.sign_key) if options.sign_key else None
    recorded = [history.items for history in read_recorded(options.golden_from)] if options.golden_from else []
    max_bytes = options.max_index_mb * 2**20 if options.max_index_mb else None
    checkpoint = options.checkpoint
    with tempfile.TemporaryDirectory() as scratch:
        if options.plan:
            save_with_plan(checkpoint, options.plan, Path(scratch) / "checkpoint")
            checkpoint = Path(scratch) / "checkpoint"
        manifest = build_bundle(
            checkpoint,
            options.output,
            options.index,
            requirements=IndexRequirements(recall_floor=options.recall_floor, max_bytes=max_bytes),
            say=lambda text: err.print(text, markup=False),
            signing=signing,
            recorded=recorded,
        )
    facts = {"kind": manifest.arm_kind, "items": manifest.num_items, "dim": manifest.dim, "index": manifest.index_spec}
    last_line({"bundle": str(options.output), "digest": manifest.digest, **facts})


def sign(
    bundle: Annotated[Path, typer.Argument(help="Bundle folder; it is checked as `recall serve` checks it.")],
    sign_key: Annotated[Path, Option(help="PEM file of a private ed25519 key, as `openssl genpkey` writes it.")],
) -> None:
    """Sign a bundle that is there, for `recall serve --trust-key`.

    So that those who train need no key, and a bundle is released by somebody else.
    """
    from index.bundle.bundle import sign_bundle
    from index.bundle.signature import SigningKey

    manifest = sign_bundle(bundle, SigningKey.read(sign_key))
    last_line({"signed": str(bundle), "digest": manifest.digest})


def evaluate(
    bundle: Annotated[Path, Option(help="Bundle folder to measure.")],
    data: DataFolder,
    split: Annotated[str, Option(help="valid or test; look at test once, after every choice is made.")] = "test",
    cutoff: Annotated[
        list[int] | None, Option(help="Length of the lists; may be repeated. Default: 5 10 20 50 100.")
    ] = None,
    by: Annotated[list[str] | None, Option(help=BY_HELP)] = None,
    max_users: Annotated[
        int | None, Option(help="Measure this many users, drawn at random: quicker, with more spread.")
    ] = None,
    device: Annotated[str, Option(help="auto, cpu or cuda; auto takes a GPU where there is one.")] = "auto",
) -> None:
    """Measure the lists that a bundle would serve.

    They are ranked over the whole catalogue without the history; coverage is the share of it that stands in any of the
    longest lists. The last line is JSON.
    """
    from model.checkpoint import Checkpoint, check_not_refit
    from model.evaluation.groups import coverage
    from model.evaluation.protocol import EvalSplit
    from service.engine.loading import choose_device, load_arm
    from service.engine.offline import OfflineArm, check_same_data, evaluate_outcomes
    from service.engine.offline import evaluate as evaluate_arm

    groupings = checked_groupings(by)
    arm, dataset = load_arm("evaluated", bundle, choose_device(device)), SequenceData.load(data)
    check_not_refit(Checkpoint.load(arm.release.folder / "checkpoint"))
    check_same_data(arm.release, dataset)
    eval_split = EvalSplit.of(dataset, checked_split(split, dataset), max_users)
    cutoffs = sorted(cutoff or [5, 10, 20, 50, 100])
    with progress_bar() as progress:
        task = progress.add_task("evaluate", total=len(eval_split.users) * len(cutoffs))
        evaluated = evaluate_arm(
            OfflineArm(arm, dataset), eval_split, cutoffs, lambda done: progress.update(task, completed=done)
        )
    show_metrics(evaluated.metrics, cutoffs)
    by_outcome = [*evaluate_outcomes(OfflineArm(arm, dataset), eval_split, cutoffs[-1])] if dataset.outcomes else []
    show_outcomes(by_outcome, cutoffs[-1])
    covered = coverage(evaluated.lists, len(dataset.catalogue.items))
    out.print(f"coverage@{cutoffs[-1]}: {covered:.1%} of {len(dataset.catalogue.items):,} items")
    metrics = evaluated.metrics | {f"coverage@{cutoffs[-1]}": covered}
    parts: dict[str, Any] = {"groups": list(show_groups(eval_split, groupings, evaluated.lists))} if by else {}
    parts |= {"outcomes": [own._asdict() for own in by_outcome]} if by_outcome else {}
    whole = {"bundle": arm.release.bundle, "data": dataset.digest, "split": split, "users": len(eval_split.users)}
    last_line(whole | {"metrics": metrics} | parts)


def checked_split(split: str, data: SequenceData) -> Split:
    """Raises BadParameter or ValueError for a split that a bundle cannot be measured on."""
    if split not in ("valid", "test"):
        raise typer.BadParameter("split is valid or test")
    if split == "test" and data.candidates is not None:
        raise ValueError(
            f"the test split of {data.name} ranks {len(data.candidates)} of its items, a bundle ranks them all; "
            "measure the checkpoint with `recall reproduce`"
        )
    return "valid" if split == "valid" else "test"


def show_outcomes(measured: "Sequence[OutcomeRecall]", cutoff: int) -> None:
    """A row for each outcome that targets ended with, a column for each that lists were asked for."""
    if not measured:
        return
    asked = [*dict.fromkeys(own.asked for own in measured)]
    table = Table("ended with", "users", *(f"recall@{cutoff}, asked for {name or 'nothing'}" for name in asked))
    for ended in dict.fromkeys(own.ended for own in measured):
        row = [own for own in measured if own.ended == ended]
        table.add_row(ended, f"{row[0].users:,}", *(f"{own.metrics[f'recall@{cutoff}']:.4f}" for own in row))
    out.print(table)


def show_metrics(metrics: dict[str, float], cutoffs: list[int]) -> None:
    from model.evaluation.metrics import NAMES

    table = Table("k", *NAMES)
    for k in cutoffs:
        table.add_row(str(k), *(f"{metrics[f'{name}@{k}']:.4f}" for name in NAMES))
    out.print(table)
