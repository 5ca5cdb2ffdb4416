"""A warm start: training on new data begins with the weights of a checkpoint, matched by external ids.

Items and users that both know keep their rows; a new item begins among the items that it is watched with, a new user as
in any training; those that are gone leave. Everything else of the network is taken over as it is.
Its epochs are of what is new: histories with events since then, and a share of the others.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.catalogue import Catalogue, IdMap, Ragged
from model.checkpoint import Checkpoint
from model.data.sequences import SequenceData
from model.networks.base import Network
from model.networks.blend import Blend
from model.networks.spectrum import MAX_GAP, NEARNESS, SHRINK, pairs_apart
from model.recipes.schema import Recipe, Stage

EPOCHS_SHARE = 0.175  # of the work of the epochs that were run to choose the start; small batches cost a tenth more
REPLAY = 1 / 3  # of the histories without new events in an epoch, drawn anew for each
WARMUP_STEPS = 20  # at most: the usual two hundred are a third of such a training, most of it at a low rate
RATE = 2.0  # times the recipe's, at half its batch: few epochs go farther in more and longer steps
NEW_LENGTH = 0.5  # of a new item's vector: as long as those of trained items it stands in everybody's list
AVERAGED_PART = 3  # weights are averaged over the last third of the steps: the usual ninth is few, of wide ones
SIZES = ("num_items", "num_users")


@dataclass(frozen=True)
class WarmStart:
    """The weights that a training begins with, the ids of their rows, and the epochs that they took."""

    network: Network
    catalogue: Catalogue
    epochs: tuple[int, ...] = ()  # of each stage; () is not known
    replay: float = REPLAY  # the chance of a history without new events to be in an epoch

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> "WarmStart":
        told = checkpoint.provenance
        # those of a warm start are few: a chain of them would come down to one epoch
        return cls(checkpoint.network, checkpoint.catalogue, () if told.started_from else told.epochs)

    def part(self, number: int) -> "WarmStart":
        """The start of a part of a blend.

        Raises ValueError where the checkpoint is no blend of so many parts.
        """
        parts = list(self.network.parts) if isinstance(self.network, Blend) else []
        if number >= len(parts):
            raise ValueError(f"the checkpoint to start from has {len(parts)} parts, the recipe has more")
        return WarmStart(parts[number], self.catalogue)  # type: ignore[arg-type]  # ModuleList has no type of member

    @cached_property
    def digest(self) -> str:
        """The same for the same weights and ids."""
        state = hashlib.sha256(repr([asdict(self.network.config), self.network.kind]).encode())
        for ids in (self.catalogue.items.ids, self.catalogue.users.ids):
            state.update(repr(ids.tolist()).encode())
        if self.catalogue.newest is not None:
            state.update(self.catalogue.newest.tobytes())
        for name, tensor in sorted(self.network.state_dict().items()):
            state.update(name.encode() + tensor.detach().cpu().contiguous().numpy().tobytes())
        return state.hexdigest()

    def chances(self, data: SequenceData) -> NDArray[np.float64]:
        """(U,) the chance of each user's history to be in an epoch: 1 with events that the start has not seen.

        A start that does not tell, of an earlier version, has chances of 1.
        """
        users, newest = self.catalogue.users, self.catalogue.newest
        if newest is None:
            return np.ones(len(data.catalogue.users))
        rows = np.array([users.row(external) for external in data.catalogue.users.ids.tolist()], dtype=np.int64)
        is_seen = rows > 0
        is_seen[is_seen] = newest[rows[is_seen] - 1] == data.newest_marks[is_seen]
        return np.where(is_seen, self.replay, 1.0)

    @torch.no_grad()
    def fill(self, network: Network, catalogue: Catalogue, histories: Ragged) -> None:
        """Copies the weights into a network for the ids of `catalogue`; `histories` say where new items begin.

        Raises ValueError where the two are not of one system and settings.
        """
        check_alike(self.network, network)
        tables = dict(tables_of(network, catalogue))
        theirs = dict(tables_of(self.network, self.catalogue))
        ours = network.state_dict()
        for name, tensor in self.network.state_dict().items():
            if name in tables:
                known = copy_rows(tensor, theirs[name], ours[name], tables[name])
                if tables[name] is catalogue.items:
                    place_new(ours[name], known, histories)
            else:
                ours[name].copy_(tensor)


def tables_of(network: Network, catalogue: Catalogue) -> Iterator[tuple[str, IdMap]]:
    """The names of the weights that have a row for each item or user (row r stands at r), with those ids."""
    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Embedding):
            table = name.rpartition(".")[2]
            if table in network.item_tables:
                yield f"{name}.weight", catalogue.items
            if table in network.user_tables:
                yield f"{name}.weight", catalogue.users


def copy_rows(source: Tensor, source_ids: IdMap, target: Tensor, target_ids: IdMap) -> Tensor:
    """Copies the rows of the ids that both know, of padding, and of what stands behind the last id.

    Returns marks (N,) of the ids of `target_ids` that both know.
    """
    rows = torch.tensor([source_ids.row(external) for external in target_ids.ids.tolist()], dtype=torch.int64)  # (N,)
    # row 0 is what an unknown id gives: a new item keeps its fresh row
    known = rows.nonzero()[:, 0]
    target[known + 1] = source[rows[known]].to(target.device)
    target[0] = source[0].to(target.device)
    # START, of an item table; a user table ends with its last user
    behind = len(target) - len(target_ids) - 1
    if behind:
        target[-behind:] = source[-behind:].to(target.device)
    return torch.isin(torch.arange(len(rows)), known)


def place_new(table: Tensor, known: Tensor, histories: Ragged) -> None:
    """Moves each new item of a table (N + 2, D) to the mean of the known ones beside it in histories, nearer ones more.

    Its length is half of that of known items with as many events. One that stands beside no known item stays as it is.
    known: marks (N,).
    """
    vectors = table[1 : len(known) + 1].cpu()
    counts = torch.from_numpy(histories.values).long().bincount(minlength=len(known) + 1)[1:].float()
    means = torch.zeros_like(vectors)
    for gap in range(1, min(MAX_GAP, int(max(histories.lengths, default=0)))):
        sides = pairs_apart(histories, gap)
        for new, other in (sides, sides[::-1]):
            taken = ~known[new] & known[other]
            # an item that stands beside everything says little
            weights = NEARNESS ** (gap - 1) / (counts[other[taken]] + SHRINK).sqrt()
            means.index_add_(0, new[taken], weights[:, None] * vectors[other[taken]])
    lengths = means.norm(dim=1)
    placed = lengths > 0
    wanted = NEW_LENGTH * expected_lengths(vectors, counts, known)
    vectors[placed] = means[placed] * (wanted / lengths)[placed, None]
    table[1 : len(known) + 1] = vectors.to(table.device)


def expected_lengths(vectors: Tensor, counts: Tensor, known: Tensor) -> Tensor:
    """The length (N,) of vectors (N, D) by their items' number of events: a line through the known ones' logarithms."""
    lengths = torch.sqrt((vectors * vectors).sum(1))
    if known.sum() < 2:
        return lengths
    x, y = counts.add(1).log(), lengths.clamp(min=1e-9).log()
    slope = ((x - x[known].mean()) * (y - y[known].mean()))[known].mean() / x[known].var(correction=0).clamp(min=1e-9)
    return torch.exp(y[known].mean() + slope * (x - x[known].mean()))


def check_alike(start: Network, network: Network) -> None:
    ours, theirs = ({**asdict(n.config), **dict.fromkeys(SIZES, 0)} for n in (network, start))
    if start.kind != network.kind:
        raise ValueError(f"the checkpoint to start from is {start.kind}, the recipe trains {network.kind}")
    if other := [name for name in ours if ours[name] != theirs.get(name) and name != "spectral_start"]:
        told = ", ".join(f"{name} {theirs.get(name)} instead of {ours[name]}" for name in other)
        raise ValueError(f"the checkpoint to start from has {told}; train it anew, or with its own recipe")


def warm_recipe(recipe: Recipe, start: WarmStart, data: SequenceData) -> Recipe:
    """The recipe of a training with a warm start: a share of the work, measured at its end, and no pre-training.

    Its steps are twice as many an epoch, of half a batch each, and twice as long.
    """
    stages = [stage for stage in recipe.all_stages if stage.objective == "next"]
    wanted = iter(start.epochs if len(start.epochs) == len(stages) else [stage.num_epochs for stage in stages])
    if len(start.epochs) == len(recipe.all_stages):
        chosen = zip(recipe.all_stages, start.epochs, strict=True)
        wanted = iter([num for stage, num in chosen if stage.objective == "next"])
    lengths = data.train.lengths
    # of an epoch, against one of all histories
    work = float(start.chances(data) @ lengths) / max(1, int(lengths.sum()))
    return _shorter(recipe, wanted, EPOCHS_SHARE / work if work else EPOCHS_SHARE)


def epochs_run(recipe: Recipe, stage: Stage, chosen: int) -> int:
    """The epochs until a stage stopped that was best after `chosen`: it has waited for a better one."""
    return min(stage.num_epochs, chosen + recipe.patience * recipe.evaluate_every)


def _shorter(recipe: Recipe, epochs: Iterator[int], share: float) -> Recipe:
    stages = tuple(
        replace(
            stage,
            num_epochs=max(1, round(share * epochs_run(recipe, stage, next(epochs)))),
            learning_rate=RATE * stage.learning_rate,
        )
        for stage in recipe.stages
        if stage.objective == "next"
    )
    parts = tuple(_shorter(part, epochs, share) for part in recipe.parts)
    # a table that starts from counts would be computed and then overwritten
    network = {**recipe.network, "spectral_start": 0.0} if "spectral_start" in recipe.network else recipe.network
    return replace(
        recipe,
        stages=stages,
        parts=parts,
        network=network,
        warmup_steps=min(recipe.warmup_steps, WARMUP_STEPS),
        averaged_part=min(recipe.averaged_part, AVERAGED_PART),
        batch_users=max(1, recipe.batch_users // 2),
        # a curve that rises: the best of a few figures is the luckiest, not the last
        evaluate_every=max([stage.num_epochs for stage in stages], default=1),
    )
