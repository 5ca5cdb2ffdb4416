"""External ids at the edge, rows inside: items, users, popularity and categories of one data set."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.attributes.table import Attributes
from model.ids import marks_of, other_form

ATTRIBUTES = "items.parquet"  # beside the file of the ids
ExternalId = int | str


@dataclass(frozen=True)
class Ragged:
    """Rows of different length in two arrays; immutable by agreement."""

    offsets: NDArray[np.int64]  # (R + 1,)
    values: NDArray[np.int32]  # (offsets[-1],)

    @classmethod
    def of(cls, rows: Iterable[Sequence[int] | NDArray[np.int32]]) -> "Ragged":
        lists = [np.asarray(row, dtype=np.int32) for row in rows]
        offsets = np.zeros(len(lists) + 1, dtype=np.int64)
        np.cumsum([len(row) for row in lists], out=offsets[1:])
        return cls(offsets, np.concatenate(lists) if lists else np.zeros(0, dtype=np.int32))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.offsets)


@dataclass(frozen=True)
class IdMap:
    """External ids of rows 1..len, all integers (64 bit) or all strings; row 0 is padding and never has an id.

    Strings are Python objects, not NumPy's strings, of which each is as wide as the longest.
    """

    ids: NDArray[np.int64] | NDArray[np.object_]  # (N,)

    def __post_init__(self) -> None:
        if self.ids.dtype.kind != "i" and not all(type(external) is str for external in self.ids.tolist()):
            raise ValueError(f"external ids must be 64-bit integers or strings, not {self.ids.dtype}")
        if len(self._rows) != len(self.ids):
            raise ValueError(f"external ids repeat: {len(self.ids)} ids, {len(self._rows)} different ones")

    @classmethod
    def of(cls, ids: Sequence[ExternalId]) -> "IdMap":
        if all(isinstance(external, int) for external in ids):
            return cls(np.asarray(ids, dtype=np.int64))
        return cls(np.asarray(ids, dtype=np.object_))

    @classmethod
    def load(cls, arrays: Mapping[str, NDArray[Any]], name: str) -> "IdMap":
        """The ids that `arrays` gave, or those of an earlier version.

        Raises ValueError when their parts do not fit.
        """
        if name in arrays:
            ids = arrays[name]
            return cls(ids.astype(np.object_) if ids.dtype.kind == "U" else ids)
        text, ends = arrays[f"{name}_text"].tobytes(), arrays[f"{name}_ends"].tolist()
        if sorted(ends) != ends or (ends or [0])[-1] != len(text) or (ends or [0])[0] < 0:
            raise ValueError(f"the ids of {name} do not fit their text; the file is damaged")
        starts = [0, *ends[:-1]]
        return cls.of(
            [text[start:end].decode(errors="surrogatepass") for start, end in zip(starts, ends, strict=False)]
        )

    def arrays(self, name: str) -> dict[str, NDArray[Any]]:
        """The arrays of a file: integers as they are; strings as one text in UTF-8 and where each ends in it."""
        if self.are_integers:
            return {name: self.ids}
        encoded = [external.encode(errors="surrogatepass") for external in self.ids.tolist()]
        ends = np.cumsum([len(external) for external in encoded], dtype=np.int64)
        return {f"{name}_text": np.frombuffer(b"".join(encoded), dtype=np.uint8), f"{name}_ends": ends}

    @cached_property
    def _rows(self) -> dict[ExternalId, int]:
        return {external: row for row, external in enumerate(self.ids.tolist(), start=1)}

    @cached_property
    def _external(self) -> list[ExternalId]:
        # the keys of the other way, not a million objects more
        return [0, *self._rows]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def are_integers(self) -> bool:
        """Tells if the ids are integers; else all of them are text."""
        return self.ids.dtype.kind == "i"

    def own_form(self, external: ExternalId) -> ExternalId:
        """An id, known or not, in the type of these: 7 of "7" where they are integers; as it is without such a form."""
        if isinstance(external, int) is self.are_integers:
            return external
        other = other_form(external)
        return external if other is None else other

    def row(self, external: ExternalId | None) -> int:
        """Row of an external id in either of its forms, 7 and "7"; 0 when it is unknown."""
        if external is None:
            return 0
        row = self._rows.get(external, 0)
        if row or (other := other_form(external)) is None:
            return row
        return self._rows.get(other, 0)

    def rows(self, external: Sequence[ExternalId]) -> tuple[int, ...]:
        """Rows of the known ids, in order; unknown ids are left out."""
        # None of an unknown id; rows start at 1
        rows = tuple(filter(None, map(self._rows.get, external)))
        # the other form of an id is looked for where some are unknown as they are
        return rows if len(rows) == len(external) else tuple(filter(None, map(self.row, external)))

    @property
    def are_marked(self) -> bool:
        """True once `rows_of_marks` answers at once; before, its first call takes .1 us an integer, .5 us a string."""
        return "_by_mark" in self.__dict__

    def rows_of_marks(self, marks: NDArray[np.uint32]) -> tuple[int, ...]:
        """Rows of all ids that have one of the marks (model/ids.py): those meant, and others that share their mark."""
        known, rows = self._by_mark
        first, last = np.searchsorted(known, marks, "left"), np.searchsorted(known, marks, "right")
        meant = rows[first[first < last]].tolist()
        several = np.flatnonzero(last - first > 1)
        others = (rows[first[n] + 1 : last[n]].tolist() for n in several.tolist())
        return (*meant, *chain.from_iterable(others))

    @cached_property
    def _by_mark(self) -> tuple[NDArray[np.uint32], NDArray[np.int32]]:
        """(N,) marks in order, and the row of each."""
        marks = marks_of(self.ids if self.are_integers else self.ids.tolist())
        order = np.argsort(marks, kind="stable")
        return marks[order], (order + 1).astype(np.int32)

    def column(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        """(K,) external ids of rows 1..N that are known to be inside; for answers, without a list of Python objects."""
        return self.ids[rows - 1]

    def external(self, rows: Iterable[int]) -> list[ExternalId]:
        """External ids of rows 1..N.

        Raises IndexError for a row outside the catalogue.
        """
        names, wanted = self._external, list(rows)
        if wanted and min(wanted) < 1:
            raise IndexError("rows start at 1; 0 is padding")
        return [names[row] for row in wanted]


@dataclass(frozen=True)
class Catalogue:
    """The ids that a checkpoint knows: they travel with the weights into the bundle."""

    items: IdMap
    users: IdMap
    counts: NDArray[np.int64]  # (N,) training interactions an item, row 1 first
    categories: Ragged | None = None  # item row - 1 -> category numbers; for controllable diversity
    attributes: Attributes | None = None  # of items; for filters, caps and boosts
    sample: Ragged | None = None  # histories of training, of nobody by name: such as the queries of users come from
    # (U,) a byte for each user's newest event of training: other events since are seen, which item it was is not
    newest: NDArray[np.uint8] | None = None

    def __post_init__(self) -> None:
        if len(self.counts) != len(self.items):
            raise ValueError(f"{len(self.items)} items but {len(self.counts)} popularity counts")
        if self.categories is not None and len(self.categories) != len(self.items):
            raise ValueError(f"{len(self.items)} items but {len(self.categories)} category rows")
        if self.attributes is not None and len(self.attributes) != len(self.items):
            raise ValueError(f"{len(self.items)} items but {len(self.attributes)} rows of attributes")
        if self.sample is not None and ((self.sample.values < 1) | (self.sample.values > len(self.items))).any():
            raise ValueError(f"a history of the sample holds rows beyond the {len(self.items)} items")
        if self.newest is not None and len(self.newest) != len(self.users):
            raise ValueError(f"{len(self.users)} users but {len(self.newest)} marks of their newest events")

    @cached_property
    def by_popularity(self) -> NDArray[np.int64]:
        """Item rows, most popular first; ties by row. The source of labelled fills."""
        return np.argsort(-self.counts, kind="stable") + 1

    @cached_property
    def popularity_ranks(self) -> NDArray[np.int64]:
        """(N,) the place of row r, at r - 1, in `by_popularity`, from 0."""
        ranks = np.empty(len(self.items), dtype=np.int64)
        ranks[self.by_popularity - 1] = np.arange(len(self.items))
        return ranks

    def save(self, path: Path) -> None:
        arrays: dict[str, Any] = {"counts": self.counts, **self.items.arrays("items"), **self.users.arrays("users")}
        if self.categories is not None:
            arrays |= {"category_offsets": self.categories.offsets, "category_values": self.categories.values}
        if self.sample is not None:
            arrays |= {"sample_offsets": self.sample.offsets, "sample_values": self.sample.values}
        if self.newest is not None:
            arrays["newest"] = self.newest
        np.savez(path, **arrays)
        beside = path.with_name(ATTRIBUTES)
        if self.attributes is None:
            beside.unlink(missing_ok=True)
        else:
            self.attributes.save(beside)

    @classmethod
    def load(cls, path: Path) -> "Catalogue":
        """The ids and, where they lie beside them, the attributes. Raises ValueError when they do not fit."""
        beside = path.with_name(ATTRIBUTES)
        attributes = Attributes.load(beside) if beside.exists() else None
        # opened here: NumPy leaves a damaged file open
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            categories = None
            if "category_offsets" in arrays:
                categories = Ragged(arrays["category_offsets"], arrays["category_values"])
            sample = Ragged(arrays["sample_offsets"], arrays["sample_values"]) if "sample_offsets" in arrays else None
            items, users = IdMap.load(arrays, "items"), IdMap.load(arrays, "users")
            return cls(items, users, arrays["counts"], categories, attributes, sample, arrays.get("newest"))
