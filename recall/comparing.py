"""recall compare: two checkpoints on the same users, or a plan against its own first query vector."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from recall.terminal import last_line, out, progress_bar

if TYPE_CHECKING:
    from model.checkpoint import Checkpoint
    from model.data.sequences import SequenceData
    from model.evaluation.comparison import Comparison, ListPair
    from model.evaluation.protocol import EvalSplit

Option = typer.Option


def compare(
    checkpoint: Annotated[
        list[Path], Option(help="Checkpoint folder that `recall train` wrote; repeated for several training seeds.")
    ],
    data: Annotated[Path, Option(help="Folder that `recall prepare` wrote.")],
    against: Annotated[
        list[Path] | None,
        Option(
            help="Checkpoint to compare with, as often as --checkpoint. Default: the same one, without generated items."
        ),
    ] = None,
    split: Annotated[str, Option(help="valid or test; look at test once, after every choice is made.")] = "valid",
    cutoff: Annotated[list[int] | None, Option(help="Length of the lists; may be repeated. Default: 50 100.")] = None,
    max_users: Annotated[int | None, Option(min=1, help="Measure this many users, drawn at random.")] = None,
) -> None:
    """Compare the recall of two systems on the same users.

    For each length: both recalls, the gain, its standard error and p-value by a bootstrap over users, the share of the
    first one's hits that the second does not list, and how much of the lists is the same. The last line is JSON.
    """
    from model.checkpoint import Checkpoint, check_not_refit
    from model.data.sequences import SequenceData
    from model.evaluation import comparison
    from model.evaluation.protocol import EvalSplit

    if split not in ("valid", "test"):
        raise typer.BadParameter("split is valid or test")
    if against and len(against) != len(checkpoint):
        raise typer.BadParameter(f"--against is given {len(against)} times for {len(checkpoint)} --checkpoint")
    dataset = SequenceData.load(data)
    eval_split = EvalSplit.of(dataset, "valid" if split == "valid" else "test", max_users)
    targets = [dataset.targets(user, eval_split.split) for user in eval_split.users.tolist()]
    ours = [Checkpoint.load(folder) for folder in checkpoint]
    theirs = [Checkpoint.load(folder) for folder in against] if against else [first_vector(own) for own in ours]
    cutoffs = sorted(cutoff or [50, 100])
    for loaded in (*ours, *theirs):
        check_same_data(loaded, dataset)
        check_not_refit(loaded)
    pairs = measure(ours, theirs, eval_split, cutoffs)
    results = {k: comparison.compare(pairs[k], targets) for k in cutoffs}
    table = Table("k", "recall", "against", "gain", "± of it", "p", "exclusive hits", "overlap")
    for k, result in results.items():
        table.add_row(str(k), *cells(result))
    out.print(table)
    rows = {f"recall@{k}": asdict(result) | {"gain": result.gain} for k, result in results.items()}
    last_line({"data": dataset.digest, "split": split, "users": len(targets), "seeds": len(ours), "results": rows})


def cells(result: "Comparison") -> Iterator[str]:
    """The figures of a row of the table."""
    yield from (f"{recall:.4f}" for recall in (result.ours, result.theirs))
    yield f"{result.gain:+.2%}"
    yield f"{result.standard_error / result.theirs:.2%}" if result.theirs else ""
    yield f"{result.p_value:.4f}"
    yield from (f"{share:.1%}" for share in (result.exclusive, result.overlap))


def first_vector(checkpoint: "Checkpoint") -> "Checkpoint":
    """The same network, answering from the state of the last real item alone."""
    from model.records import PromptPlan

    return replace(checkpoint, plan=replace(checkpoint.plan, prompts=PromptPlan(), quotas=()))


def measure(
    ours: Sequence["Checkpoint"], theirs: Sequence["Checkpoint"], eval_split: "EvalSplit", cutoffs: Sequence[int]
) -> dict[int, list["ListPair"]]:
    """The lists of each pair of checkpoints, by their length."""
    from model.evaluation.comparison import ListPair
    from model.evaluation.protocol import top_lists

    pairs: dict[int, list[ListPair]] = {k: [] for k in cutoffs}
    with progress_bar() as progress:
        task = progress.add_task("compare", total=2 * len(ours))
        for pair in zip(ours, theirs, strict=True):
            sides = []
            for checkpoint in pair:
                sides.append(top_lists(checkpoint.network.eval(), eval_split, checkpoint.plan.prompts, cutoffs[-1]))
                progress.advance(task)
            for k in cutoffs:
                pairs[k].append(ListPair(*(lists.merged(own.plan, k) for lists, own in zip(sides, pair, strict=True))))
    return pairs


def check_same_data(checkpoint: "Checkpoint", data: "SequenceData") -> None:
    """Raises ValueError when the rows of a checkpoint and of the data set do not mean the same items."""
    if checkpoint.provenance.data_digest != data.digest:
        raise ValueError(f"the checkpoint was trained on {checkpoint.provenance.data_name}, other data than these")
