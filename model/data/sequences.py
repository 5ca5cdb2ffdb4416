"""A prepared data set: histories and targets of every user, as item rows. Made by `recall prepare`, read by training.

All protocols have this one shape: leave-one-out has one item in each `valid` and `test` row; a split by time, or one
that came with the data ("given"), any number. What is known of a user when `valid` is predicted is `train`; when
`test` is predicted it is `train + valid`.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any, Literal, get_args
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from model.catalogue import ATTRIBUTES, Catalogue, Ragged
from model.data.marks import Marks
from model.folders.files import FolderRefused
from model.folders.whole import FolderKind, read_folder, write_folder
from model.ids import marks_of
from model.positive import PositiveRule, read_rule, write_rule

FORMAT = 2
UNBOUND = 1  # the format without a manifest: read, not written
META, SEQUENCES, CATALOGUE = "dataset.json", "sequences.npz", "catalogue.npz"
PREPARED = FolderKind("prepared data set", "recall prepare", (META, SEQUENCES, CATALOGUE, ATTRIBUTES))
BLOCK_EVENTS = 2**20
NUM_SAMPLED, SAMPLED_LENGTH = 256, 50  # histories of training that go with a checkpoint; items of each
Split = Literal["valid", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
Protocol = Literal["leave-one-out", "by-time", "given"]  # given: no order in time is claimed


@dataclass(frozen=True)
class SequenceData:
    """Rows of `train`, `valid` and `test` are users 1..U, in order; values are item rows 1..N, oldest first."""

    name: str
    catalogue: Catalogue
    train: Ragged
    valid: Ragged
    test: Ragged
    protocol: Protocol
    candidates: NDArray[np.int32] | None = None  # item rows that are ranked; None = the whole catalogue
    # False: an item of the user's history is no target of it, because no list may hold it
    seen_targets: bool = True
    positive: PositiveRule | None = None  # by which events were chosen; None = not known, or no rule on their signals
    # the events that ended so, by outcome; not in the digest: no network and no measure of the plain answer reads them
    outcomes: Mapping[str, Marks] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ValueError for marks of other events."""
        lengths = [len(part.values) for part in (self.train, self.valid, self.test)]
        if others := [name for name, marks in self.outcomes.items() if [*map(len, marks)] != lengths]:
            raise ValueError(f"the marks of {others[0]} are not those of the events")

    def history(self, user: int, split: Split) -> NDArray[np.int32]:
        """The items known of a user row (1..U) when `split` is predicted."""
        past = self.train[user - 1]
        return past if split == "valid" else np.concatenate([past, self.valid[user - 1]])

    def targets(self, user: int, split: Split) -> NDArray[np.int32]:
        """The items that a list for a user row (1..U) is measured by."""
        part = self._part(split)
        items = part[user - 1]
        return (
            items if self.seen_targets else items[self._is_unseen[split][part.offsets[user - 1] : part.offsets[user]]]
        )

    def users_with_targets(self, split: Split) -> NDArray[np.int64]:
        """User rows that the split can be measured on."""
        part = self._part(split)
        if self.seen_targets:
            return np.flatnonzero(part.lengths) + 1
        return np.unique(_owners(part)[self._is_unseen[split]]) + 1

    def num_seen(self, split: Split) -> int:
        """Events of the split whose item the user has seen before, so that no list can hold it."""
        return int((~self._is_unseen[split]).sum())

    def _part(self, split: Split) -> Ragged:
        return self.valid if split == "valid" else self.test

    @cached_property
    def _is_unseen(self) -> dict[Split, NDArray[np.bool_]]:
        """A mark for each event of valid and test, in their order: the user's history lacks its item."""
        pairs = [_Pairs(part, len(self.catalogue.items) + 1) for part in (self.train, self.valid, self.test)]
        train, valid, test = pairs
        return {"valid": valid.lacking_in(train), "test": test.lacking_in(train, valid)}

    def all_in_train(self) -> "SequenceData":
        """The same events, all of them to train on: nothing is left to measure by."""
        nothing = Ragged(np.zeros(len(self.train) + 1, dtype=np.int64), np.zeros(0, dtype=np.int32))
        train = joined(self.train, self.valid, self.test)
        counts = np.bincount(train.values, minlength=len(self.catalogue.items) + 1)[1:].astype(np.int64)
        catalogue, outcomes = replace(self.catalogue, counts=counts), dict[str, Marks]()
        for name, marks in self.outcomes.items():
            parts = zip((self.train, self.valid, self.test), marks, strict=True)
            flags = joined(*(Ragged(part.offsets, own.astype(np.int32)) for part, own in parts)).values.astype(np.bool_)
            outcomes[name] = Marks(flags, flags[:0], flags[:0])
        return replace(self, catalogue=catalogue, train=train, valid=nothing, test=nothing, outcomes=outcomes)

    def ended_with(self, outcome: str, split: Split) -> "SequenceData":
        """The data with those targets of a split alone that ended with an outcome, to measure by.

        Raises KeyError for an outcome that nobody marked.
        """
        marks, part = self.outcomes[outcome], self._part(split)
        flags = marks.valid if split == "valid" else marks.test
        offsets = np.concatenate([[0], np.cumsum(flags)])[part.offsets]
        kept = Ragged(offsets.astype(np.int64), part.values[flags])
        return replace(self, outcomes={}, valid=kept) if split == "valid" else replace(self, outcomes={}, test=kept)

    @property
    def sampled_catalogue(self) -> Catalogue:
        """The catalogue with what a checkpoint keeps of the events of training: some histories, and each one's newest.

        Histories go up to an event drawn at random, and stand for the queries of users where the service has none
        (service/catalogue/newcomers.py); by the newest a warm start sees who has other events since.
        """
        train, generator = self.train, np.random.default_rng(0)
        firsts = np.repeat(train.offsets[:-1], train.lengths)
        # an event without one before it has no history
        later = np.flatnonzero(np.arange(len(train.values)) > firsts)
        places = np.sort(generator.choice(later, min(NUM_SAMPLED, len(later)), replace=False))
        starts = np.maximum(firsts[places], places - SAMPLED_LENGTH)
        histories = Ragged.of(
            train.values[start:end].tolist() for start, end in zip(starts.tolist(), places.tolist(), strict=True)
        )
        return replace(self.catalogue, sample=histories, newest=self.newest_marks)

    @property
    def newest_marks(self) -> NDArray[np.uint8]:
        """(U,) a byte of the mark of each user's newest item of training, 0 without one; the same for the same id."""
        items, histories = self.catalogue.items, self.train
        marks = np.zeros(len(items) + 1, dtype=np.uint8)
        marks[1:] = marks_of(items.ids if items.are_integers else items.ids.tolist()) & 0xFF
        newest = np.zeros(len(histories), dtype=np.int32)
        newest[histories.lengths > 0] = histories.values[histories.offsets[1:][histories.lengths > 0] - 1]
        return marks[newest]

    @property
    def digest(self) -> str:
        """sha256 over ids and sequences: what two runs must share to be comparable."""
        state = hashlib.sha256()
        # as text: the bytes of a string array depend on its longest id
        for array in (self.catalogue.items.ids, self.catalogue.users.ids):
            state.update(json.dumps(array.tolist()).encode())
        for part in (self.train, self.valid, self.test):
            # the same items of other users are other data
            state.update(part.offsets.tobytes())
            state.update(part.values.tobytes())
        if self.candidates is not None:
            state.update(self.candidates.tobytes())
        if not self.seen_targets:
            state.update(b"unseen targets")
        return state.hexdigest()

    def save(self, folder: Path) -> None:
        """Puts the data set in the place of `folder`; whoever reads it meanwhile gets the old one or this one.

        Raises FolderRefused where something other than a prepared data set would be lost.
        """
        write_folder(PREPARED, folder, self._write)

    def _write(self, folder: Path) -> None:
        self.catalogue.save(folder / CATALOGUE)
        arrays: dict[str, Any] = {}
        for part in ("train", "valid", "test"):
            ragged: Ragged = getattr(self, part)
            arrays |= {f"{part}_offsets": ragged.offsets, f"{part}_values": ragged.values}
        if self.candidates is not None:
            arrays["candidates"] = self.candidates
        for number, marks in enumerate(self.outcomes.values()):
            arrays |= {f"{part}_outcome_{number}": flags for part, flags in marks._asdict().items()}
        np.savez(folder / SEQUENCES, **arrays)
        meta: dict[str, Any] = {"format": FORMAT, "name": self.name, "protocol": self.protocol, "digest": self.digest}
        meta |= {"seen_targets": self.seen_targets, "positive": write_rule(self.positive)}
        meta |= {"outcomes": [*self.outcomes]}
        (folder / META).write_text(json.dumps(meta, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "SequenceData":
        """Reads what `save` wrote.

        Raises ValueError, with the way out, when the folder is not a prepared data set, or not all of one.
        """
        try:
            return read_folder(PREPARED, folder, cls._read, _is_bound)
        except (ValueError, KeyError, TypeError, OSError, EOFError, BadZipFile) as error:
            if isinstance(error, FolderRefused):
                raise
            raise FolderRefused(f"{folder} cannot be read: {error}; prepare it again") from error

    @classmethod
    def _read(cls, folder: Path) -> "SequenceData":
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        # opened here: NumPy leaves a damaged file open
        with (folder / SEQUENCES).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            train, valid, test = (
                Ragged(arrays[f"{part}_offsets"], arrays[f"{part}_values"]) for part in ("train", "valid", "test")
            )
            candidates = arrays.get("candidates")
            outcomes = {
                name: Marks(*(arrays[f"{part}_outcome_{number}"] for part in Marks._fields))
                for number, name in enumerate(meta.get("outcomes", ()))
            }
        catalogue = Catalogue.load(folder / CATALOGUE)
        # folders of earlier versions count every event
        seen_targets = meta.get("seen_targets", True)
        rule = read_rule(meta.get("positive"))
        parts = train, valid, test
        return cls(meta["name"], catalogue, *parts, meta["protocol"], candidates, seen_targets, rule, outcomes)


def _is_bound(folder: Path) -> bool:
    path = folder / META
    if not path.exists():
        raise FolderRefused(f"{folder} is not a prepared data set (no {META}); make one with `recall prepare`")
    meta = json.loads(path.read_text(encoding="utf-8"))
    number = meta.get("format") if isinstance(meta, dict) else None
    if number not in (FORMAT, UNBOUND):
        raise FolderRefused(
            f"{folder} has data format {number}; this version reads {UNBOUND} and {FORMAT}: prepare it again"
        )
    return bool(number == FORMAT)


def joined(*parts: Ragged) -> Ragged:
    """The events of all parts, each user's in the order of the parts."""
    # stable: within a part they stay as they are
    order = np.argsort(np.concatenate([_owners(part) for part in parts]), kind="stable")
    offsets = sum((part.offsets for part in parts), np.zeros_like(parts[0].offsets))
    return Ragged(offsets, np.concatenate([part.values for part in parts])[order])


@dataclass(frozen=True)
class _Pairs:
    """The (user, item) pairs of a part, each as one number."""

    part: Ragged
    num_rows: int  # above every item row

    def blocks(self) -> Iterator[NDArray[np.int64]]:
        """The numbers in order, few enough at once that millions of events take little memory."""
        owners = np.repeat(np.arange(len(self.part), dtype=np.int32), self.part.lengths)
        for start in range(0, len(owners), BLOCK_EVENTS):
            block = slice(start, start + BLOCK_EVENTS)
            yield owners[block].astype(np.int64) * self.num_rows + self.part.values[block]

    def lacking_in(self, *others: "_Pairs") -> NDArray[np.bool_]:
        """A mark for each pair that no other part holds."""
        own = np.concatenate([np.zeros(0, dtype=np.int64), *self.blocks()])
        wanted, place = np.unique(own, return_inverse=True)
        is_missing = np.ones(len(wanted), dtype=bool)
        for block in chain.from_iterable(other.blocks() for other in others):
            at = np.searchsorted(wanted, block).clip(max=max(len(wanted) - 1, 0))
            is_missing[at[wanted[at] == block] if len(wanted) else []] = False
        return is_missing[place]


def _owners(part: Ragged) -> NDArray[np.int64]:
    """The user, from 0, of each value."""
    return np.repeat(np.arange(len(part), dtype=np.int64), part.lengths)
