"""Every study can be started: its modules import what there is."""

import importlib
from pathlib import Path

import pytest

FILES = sorted(Path(__file__).parents[1].joinpath("benchmarks").glob("*.py"))


@pytest.mark.parametrize("name", [file.stem for file in FILES if file.stem != "__init__"])
def test_a_study_imports(name):
    importlib.import_module(f"benchmarks.{name}")
