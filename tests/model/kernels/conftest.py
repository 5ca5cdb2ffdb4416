"""The kernels on a card where there is one, else in Triton's interpreter."""

import pytest
import torch

from model.kernels import interpreted

pytest.importorskip("triton", reason="Triton is not installed: pip install 'recgpt-recall[kernels]'")
if not torch.cuda.is_available() and not interpreted():
    pytest.skip("no card, and Triton's interpreter is off", allow_module_level=True)
