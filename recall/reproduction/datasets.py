"""The table's data sets in a folder as ../shared/data lays it out, and their preparation. Reads files with polars."""

from collections.abc import Iterable
from pathlib import Path

from model.data.prepare import PrepareOptions, prepare
from model.data.sequences import SequenceData
from model.logs.events import DataError

SOURCES = {
    "beauty": PrepareOptions("s3rec", Path("s3rec/Beauty.txt")),
    "sports": PrepareOptions("s3rec", Path("s3rec/Sports_and_Outdoors.txt")),
    "toys": PrepareOptions("s3rec", Path("s3rec/Toys_and_Games.txt")),
    "yelp": PrepareOptions("s3rec", Path("s3rec/Yelp.txt")),
    "kuairand": PrepareOptions("kuairand", Path("kuairand_pure")),
    "kuairand-click": PrepareOptions("kuairand", Path("kuairand_pure"), target="is_click"),
    "kuairec": PrepareOptions("kuairec", Path("kuairec/kuairec_fully_observed.npz")),
}


def source_path(name: str, folder: Path) -> Path:
    """Raises DataError, with the known names, for an unknown data set."""
    if name not in SOURCES:
        raise DataError(f"unknown data set {name!r}; known are {', '.join(SOURCES)}")
    return folder / (SOURCES[name].input or "")


def find_sources(folder: Path) -> list[str]:
    """The data sets that are in a folder.

    Raises DataError when there is none.
    """
    names = [name for name in SOURCES if source_path(name, folder).exists()]
    if not names:
        known = ", ".join(sorted({str(options.input) for options in SOURCES.values()}))
        raise DataError(f"{folder} holds none of {known}")
    return names


def prepare_sources(folder: Path, names: Iterable[str], work: Path) -> dict[str, Path]:
    """Prepared folders by name; what `work` has already is used as it is.

    Raises DataError for a data set that is unknown or not in `folder`.
    """
    prepared = {}
    for name in names:
        path, target = source_path(name, folder), work / "data" / name
        if not path.exists():
            raise DataError(f"the data set {name} is not in {folder}: {path} is missing")
        if not (target / "dataset.json").exists():
            _prepare(name, path).save(target)
        prepared[name] = target
    return prepared


def _prepare(name: str, path: Path) -> SequenceData:
    options = SOURCES[name]
    return prepare(PrepareOptions(options.format, path, name, target=options.target))[0]
