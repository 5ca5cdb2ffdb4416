"""recall compare: two checkpoints on the same users, or a plan against its own first query vector."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from recall.terminal import last_line, out, progress_bar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from model.checkpoint import Checkpoint
    from model.data.sequences import SequenceData
    from model.evaluation.comparison import Comparison, ListPair
    from model.evaluation.groups import By
    from model.evaluation.protocol import EvalSplit

Option = typer.Option
BY_HELP = (
    "history or popularity, may be repeated: the same for users by the length of their history, or for targets by how "
    "often their item was watched in training (1 = the most watched tenth of all events)."
)
CUTOFF_HELP = "Length of the lists; may be repeated. Default: 50 100."
COLUMNS = ("recall", "against", "gain", "± of it", "p", "exclusive hits", "overlap")


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
    cutoff: Annotated[list[int] | None, Option(min=1, help=CUTOFF_HELP)] = None,
    by: Annotated[list[str] | None, Option(help=BY_HELP)] = None,
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
    groupings = checked_groupings(by)
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
    table = Table("k", *COLUMNS)
    for k, result in results.items():
        table.add_row(str(k), *cells(result))
    out.print(table)
    rows = {f"recall@{k}": facts(result) for k, result in results.items()}
    whole = {"data": dataset.digest, "split": split, "users": len(targets), "seeds": len(ours), "results": rows}
    last_line(whole | {"groups": [*compare_groups(eval_split, groupings, pairs[cutoffs[-1]])]} if by else whole)


def compare_groups(
    eval_split: "EvalSplit", groupings: "Sequence[By]", pairs: "Sequence[ListPair]"
) -> Iterator[dict[str, object]]:
    """The comparison at the longest lists in each group, printed and as what JSON can say."""
    from model.evaluation.comparison import ListPair, compare
    from model.evaluation.groups import groups

    for name in groupings:
        table = Table(name, "users", *COLUMNS)
        for group in groups(eval_split, name):
            own = [ListPair(group.of(pair.ours), group.of(pair.theirs)) for pair in pairs]
            result = compare(own, group.targets)
            table.add_row(group.label, str(len(group.users)), *cells(result))
            yield {"by": name, "group": group.label, "users": len(group.users), **facts(result)}
        out.print(table)


def checked_groupings(by: Sequence[str] | None) -> "list[By]":
    """The groupings asked for, each once. Raises BadParameter for one that there is not."""
    from model.evaluation.groups import GROUPINGS

    by = by or []
    if unknown := [name for name in by if name not in GROUPINGS]:
        raise typer.BadParameter(f"--by is {unknown[0]!r}; it is {' or '.join(GROUPINGS)}")
    return [name for name in GROUPINGS if name in by]


def show_groups(
    eval_split: "EvalSplit", groupings: "Sequence[By]", lists: "NDArray[np.int64]"
) -> Iterator[dict[str, object]]:
    """Metrics of each group, printed and as what JSON can say; lists (U, K) of the split's users."""
    from model.evaluation.groups import groups
    from model.evaluation.metrics import NAMES, Relevance, ranking_metrics

    k = lists.shape[1]
    for name in groupings:
        table = Table(name, "users", *(f"{metric}@{k}" for metric in NAMES))
        for group in groups(eval_split, name):
            metrics = ranking_metrics(Relevance.of(group.of(lists), group.targets), [k])
            table.add_row(group.label, str(len(group.users)), *(f"{metrics[f'{m}@{k}']:.4f}" for m in NAMES))
            yield {"by": name, "group": group.label, "users": len(group.users), **metrics}
        out.print(table)


def facts(result: "Comparison") -> dict[str, float]:
    return asdict(result) | {"gain": result.gain}


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
    """Raises ValueError when the rows of a checkpoint and of the data set do not mean the same items.

    And for a plan that asks for outcomes: plain query vectors are compared.
    """
    if checkpoint.plan.outcomes:
        raise ValueError("a plan that asks for outcomes is measured with its bundle, by `recall evaluate`")
    if checkpoint.provenance.data_digest != data.digest:
        raise ValueError(f"the checkpoint was trained on {checkpoint.provenance.data_name}, other data than these")
