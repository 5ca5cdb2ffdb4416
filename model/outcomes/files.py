"""Heads on disk: one file of safetensors beside a checkpoint's weights; what they are called stands in its config."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

from model.outcomes.heads import OutcomeFit, OutcomeHeads

PARTS = ("down", "up", "shift")


def save_heads(heads: OutcomeHeads, path: Path) -> None:
    save_file({name: np.ascontiguousarray(getattr(heads, name)) for name in PARTS}, path)


def load_heads(path: Path, facts: Sequence[Mapping[str, Any]]) -> OutcomeHeads:
    """Raises ValueError, KeyError, TypeError or OSError for what `save_heads` and `facts` did not write."""
    arrays = load_file(path)
    fits = tuple(OutcomeFit(**own) for own in facts)
    return OutcomeHeads(fits, *(arrays[name].astype(np.float32, copy=False) for name in PARTS))
