"""Triton where it is installed. A machine without a GPU has none, and imports every kernel all the same.

Modules of kernels say `from __future__ import annotations`: `tl.constexpr` is then never looked up without Triton.
"""

import os
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, TypeAlias

from torch import Tensor

__all__ = ["HAVE_TRITON", "INTERPRETED", "TensorDescriptor", "jit", "kernels_run", "tl", "triton"]

HAVE_TRITON = find_spec("triton") is not None
if TYPE_CHECKING:
    # Triton's own types know a kernel's body no better than these do, and CI has no Triton.
    class _Language(type):
        def __getattr__(cls, name: str) -> Any: ...

    class tl(metaclass=_Language):
        constexpr: TypeAlias = Any

    triton: Any
    TensorDescriptor: Any
elif HAVE_TRITON:
    import triton
    import triton.language as tl
    from triton.tools.tensor_descriptor import TensorDescriptor
else:
    triton = tl = TensorDescriptor = None

# Triton reads the variable when it is imported: a change later changes nothing.
INTERPRETED = HAVE_TRITON and os.environ.get("TRITON_INTERPRET") == "1"


def jit(function: Callable[..., Any] | None = None, **options: Any) -> Any:
    """`triton.jit`, with or without options; without Triton the function itself, which nobody then calls."""
    if not HAVE_TRITON:
        return function if function is not None else lambda undecorated: undecorated
    return triton.jit(function, **options)


def kernels_run(tensor: Tensor) -> bool:
    """Whether a kernel can be launched on this tensor. The interpreter is for tests, which call kernels themselves."""
    return HAVE_TRITON and tensor.is_cuda
