"""Where kernels can be tested: on a GPU, else in Triton's interpreter, which tests/conftest.py asks for."""

import pytest
import torch

from workers.engine.kernels.jit import HAVE_TRITON, INTERPRETED

needs_triton = pytest.mark.skipif(
    not (INTERPRETED or (HAVE_TRITON and torch.cuda.is_available())), reason="Triton is not installed"
)
