"""KuaiRec: a matrix of 1,411 users x 3,327 videos without a gap. Data: kuairec.com (CC BY-SA 4.0), the official demo.

`train` and `valid` of the file are (user, video) positives of all 7,176 users; `test_pos` holds every positive of the
complete matrix (watch ratio >= 2), `small_items` its videos. Those videos alone are ranked; they occur in train and
valid with other users only. Pairs carry no time: within a user they stand in the order of the file, which means
nothing.

Training gets both `train` and `valid`. What the app's recommender chose to show says little about a matrix in which
everybody saw everything, so a part of the matrix's users is the validation split, the others are the test
(docs/decisions/0019-kuairec-validation.md).

The catalogue is every video and user that occurs; categories come from item_tags.json beside the file, where it is.
"""

from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from model.catalogue import Catalogue, IdMap, Ragged
from model.data.categories import encode_categories, read_categories
from model.data.items import with_attributes
from model.data.sequences import SequenceData
from model.logs.events import BadRow, DataError, ReadReport
from model.positive import PositiveRule

PARTS = ("train", "valid", "test_pos")
ITEMS, TAGS = "small_items", "item_tags.json"
MIN_WATCH_RATIO = 2.0  # of a positive
VALID_SHARE = 0.2  # of the matrix's users
Pairs = NDArray[np.int64]  # (P, 2) user, video


def read_kuairec(path: Path, name: str) -> tuple[SequenceData, ReadReport]:
    """The prepared data set; of equal pairs in one part only the first stays, the others are reported.

    Raises DataError when the file or one of its arrays is missing or has another form.
    """
    arrays = _read(path)
    parts = {part: _first_of_equal(arrays[part]) for part in PARTS}
    report = _report(arrays, parts)
    pairs = np.concatenate([*parts.values()])
    small = np.unique(arrays[ITEMS])
    # videos of the matrix that nobody took are candidates all the same, so they have rows too
    users, items = IdMap(np.unique(pairs[:, 0])), IdMap(np.union1d(pairs[:, 1], small))
    if strangers := len(np.setdiff1d(parts["test_pos"][:, 1], small)):
        raise DataError(f"{path}: {strangers} videos of test_pos are not in {ITEMS}, so the matrix is not complete")
    known = _first_of_equal(np.concatenate([parts["train"], parts["valid"]]))
    for_valid = np.isin(parts["test_pos"][:, 0], _validation_users(parts["test_pos"]))
    split = known, parts["test_pos"][for_valid], parts["test_pos"][~for_valid]
    train, valid, test = (_sequences(part, users, items) for part in split)
    tags = path.with_name(TAGS)
    table = read_categories(tags) if tags.is_file() else None
    categories = encode_categories(items, table) if table is not None else None
    counts = np.bincount(train.values, minlength=len(items) + 1)[1:].astype(np.int64)
    candidates = _rows(items, small).astype(np.int32)
    catalogue = Catalogue(items, users, counts, categories)
    data = SequenceData(
        name, catalogue, train, valid, test, "given", candidates, positive=PositiveRule(MIN_WATCH_RATIO)
    )
    return with_attributes(data, None, table), report


def _validation_users(complete: Pairs) -> NDArray[np.int64]:
    """The same for the same file, whatever the seed of a training."""
    everybody = np.unique(complete[:, 0])
    return np.random.default_rng(0).choice(everybody, round(VALID_SHARE * len(everybody)), replace=False)


def _read(path: Path) -> dict[str, NDArray[np.int64]]:
    if not path.is_file():
        raise DataError(f"{path} is not a file; kuairec reads kuairec_fully_observed.npz")
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            tables = {key: arrays[key] for key in (*PARTS, ITEMS)}
    except (ValueError, KeyError, OSError, EOFError, BadZipFile) as error:
        raise DataError(f"{path} cannot be read with the arrays {', '.join((*PARTS, ITEMS))}: {error}") from error
    for key, array in tables.items():
        wanted = (len(array),) if key == ITEMS else (len(array), 2)
        if array.dtype.kind not in "iu" or array.shape != wanted or not len(array):
            raise DataError(f"{path}: {key} is {array.dtype} {array.shape}; it holds whole numbers {wanted}")
    return {key: array.astype(np.int64) for key, array in tables.items()}


def _first_of_equal(pairs: Pairs) -> Pairs:
    _, first = np.unique(pairs, axis=0, return_index=True)
    # in the order of the file, which np.unique does not keep
    return pairs[np.sort(first)]


def _report(arrays: dict[str, NDArray[np.int64]], parts: dict[str, Pairs]) -> ReadReport:
    # rows are counted over the three parts one after the other
    bad, start = [], 0
    for part in PARTS:
        if len(parts[part]) < len(arrays[part]):
            repeated = np.setdiff1d(np.arange(len(arrays[part])), np.unique(arrays[part], axis=0, return_index=True)[1])
            bad += [BadRow(start + row + 1, f"the pair stands in {part} already") for row in repeated.tolist()]
        start += len(arrays[part])
    return ReadReport.of(start, bad)


def _sequences(pairs: Pairs, users: IdMap, items: IdMap) -> Ragged:
    rows = _rows(users, pairs[:, 0])
    order = np.argsort(rows, kind="stable")
    offsets = np.zeros(len(users) + 1, dtype=np.int64)
    np.cumsum(np.bincount(rows - 1, minlength=len(users)), out=offsets[1:])
    return Ragged(offsets, _rows(items, pairs[:, 1])[order].astype(np.int32))


def _rows(ids: IdMap, external: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.searchsorted(ids.ids, external).astype(np.int64) + 1
