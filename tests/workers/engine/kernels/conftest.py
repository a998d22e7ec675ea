"""Kernels run on the GPU if there is one, else in Triton's interpreter."""

import pytest
import torch


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str:
    if torch.cuda.is_available():
        return "cuda"
    if request.node.get_closest_marker("gpu"):
        pytest.skip("needs a GPU")
    return "cpu"
