"""Is this the model that the configuration names? Compares every header with what must be there; reads no weights.

The format of a linear layer is what its tensors say: E4M3 with a scale, bytes with block scales, or neither. The record
of the quantiser is compared where it lists modules one by one; its wildcards are not, for no source settles them.
"""

import re
from collections.abc import Mapping

from workers.engine.checkpoint.directory import Directory
from workers.engine.checkpoint.errors import Fault, Problem
from workers.engine.checkpoint.expected import Expected, linear_modules, table
from workers.engine.checkpoint.shards import Stored
from workers.engine.config import OmniConfig
from workers.engine.quant import Format

# What transformers adds when it saves this model (spec 7.5): scales of 1, and a list that only summaries need.
LAYER_SCALE = re.compile(r"vision_model\..*\.(layer_scale[12]\.lambda1|ls[12]\.gamma)")
SUMMARY = re.compile(r"vision_model\..*summary_idxs")
# These two hold the same numbers for anything small: one that is stored wider loses nothing.
WIDER = {"BF16": ("BF16", "F32")}


def formats_of(config: OmniConfig, stored: Mapping[str, Stored]) -> dict[str, Format]:
    """The format of each linear module of the text, by name."""
    return {module: _format_of(module, stored) for module in linear_modules(config)}


def problems_of(directory: Directory, formats: Mapping[str, Format]) -> list[Problem]:
    """Every difference between the headers and the table; what lies in a file that cannot be read is no difference."""
    problems = list(directory.problems)
    if directory.unread is None:
        return problems
    expected = table(directory.config, formats.__getitem__)
    for name in directory.stored:
        if name not in expected and not LAYER_SCALE.fullmatch(name) and not SUMMARY.fullmatch(name):
            problems.append(Problem(Fault.LEFTOVER, name))
    for name, one in expected.items():
        if name in directory.stored:
            problems += _differences(one, directory.stored[name])
        elif not one.optional and name not in directory.unread:
            problems.append(Problem(Fault.MISSING, name))
    return problems + ([] if directory.unread else _against_record(directory.config, formats))


def _format_of(module: str, stored: Mapping[str, Stored]) -> Format:
    weight = stored.get(f"{module}.weight")
    dtype = weight.dtype if weight else ""
    if f"{module}.weight_scale_2" in stored or dtype == "U8":
        return Format.NVFP4
    return Format.FP8 if f"{module}.weight_scale" in stored or dtype == "F8_E4M3" else Format.DENSE


def _differences(expected: Expected, found: Stored) -> list[Problem]:
    if expected.ignored:
        return []
    problems = []
    # A scalar may be stored as a list of one.
    if found.shape != expected.shape and not (expected.shape == () and found.shape == (1,)):
        detail = f"expected {list(expected.shape)}, got {list(found.shape)}"
        problems.append(Problem(Fault.SHAPE, expected.name, detail))
    allowed = WIDER.get(expected.dtype, (expected.dtype,)) if len(expected.shape) < 2 else (expected.dtype,)
    if found.dtype not in allowed:
        problems.append(Problem(Fault.DTYPE, expected.name, f"expected {expected.dtype}, got {found.dtype}"))
    return problems


def _against_record(config: OmniConfig, formats: Mapping[str, Format]) -> list[Problem]:
    return [
        Problem(Fault.RECORD, module, f"recorded {recorded}, got {formats.get(module, 'no such module')}")
        for module, recorded in config.quant.layers.items()
        if formats.get(module) is not recorded
    ]
