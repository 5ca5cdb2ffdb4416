"""The kernels on a card where there is one, else in Triton's interpreter."""

import pytest
import torch

from model.kernels import interpreted

pytest.importorskip("triton", reason="Triton is not installed: pip install 'recgpt-recall[kernels]'")
if not torch.cuda.is_available() and not interpreted():
    pytest.skip("no card, and Triton's interpreter is off", allow_module_level=True)


@pytest.fixture(scope="session")
def device():
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture
def draw(device):
    """Normal numbers of a shape; whole ones tie."""
    draws = torch.Generator().manual_seed(0)

    def normal(*shape, whole=False):
        numbers = torch.randint(-2, 3, shape, generator=draws).float() if whole else torch.randn(shape, generator=draws)
        return numbers.to(device)

    return normal
