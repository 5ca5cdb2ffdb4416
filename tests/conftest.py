"""Fixtures of the whole project."""

from pathlib import Path

import pytest
from hypothesis import settings

# On a shared machine the time of one example says nothing of the code.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data sets beside the checkout; tests that ask for it carry the mark `data`."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"needs the real data sets in {folder}; they are not part of the project")
    return folder
