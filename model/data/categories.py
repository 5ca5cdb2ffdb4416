"""Item categories from a JSON file `{item: [attribute, ...]}` or from lists, as dense numbers 0..C-1."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from model.catalogue import ExternalId, IdMap, Ragged
from model.logs.events import DataError

Categories = Mapping[str, Sequence[ExternalId]]  # external item id as text -> attribute ids


def read_categories(path: Path) -> Categories:
    """Reads an item2attributes file.

    Raises DataError when it is not a JSON object of lists.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(table, dict) or not all(_is_attribute_list(value) for value in table.values()):
        raise DataError(f"{path} must be a JSON object of item -> list of attribute ids (integers or strings)")
    return table


def encode_categories(items: IdMap, categories: Categories) -> Ragged:
    """Categories of rows 1..N, item row - 1 first, each once and in rising order.

    Items without an entry have none; entries without an item are left out. Numbers follow the attributes that are in
    use, integers by value, then strings.
    """
    rows = [categories.get(str(item), ()) for item in items.ids.tolist()]
    # Integers and strings do not compare; the flag sorts one kind before the other.
    known = sorted({value for row in rows for value in row}, key=lambda value: (isinstance(value, str), value))
    numbers = {attribute: number for number, attribute in enumerate(known)}
    return Ragged.of([np.unique([numbers[value] for value in row]).tolist() for row in rows])


def _is_attribute_list(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(attribute, int | str) for attribute in value)
