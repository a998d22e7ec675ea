"""What these tests need: torch writes the tiny checkpoint, huggingface_hub is the client."""

from importlib.util import find_spec

import pytest

MISSING = [name for name in ("torch", "huggingface_hub") if find_spec(name) is None]
weights = pytest.mark.skipif(bool(MISSING), reason=f"needs {' and '.join(MISSING)} (the extra `engine`)")
