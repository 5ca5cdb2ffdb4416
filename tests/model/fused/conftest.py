"""Decoders that the compiled pass knows: their heads are 16 wide."""

import pytest

from model.fused.library import UnavailableError, open_library


@pytest.fixture(scope="session")
def library():
    try:
        return open_library()
    except UnavailableError as error:
        pytest.skip(f"the compiled pass cannot be used here: {error}")


@pytest.fixture(scope="session")
def make_decoder(library, make_network):
    def make(**sizes):
        return make_network("recgpt", **({"dim": 32, "num_heads": 2, "max_length": 20} | sizes))

    return make
