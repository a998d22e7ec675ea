"""A checked directory as tensors: views on the files, which are mapped into memory and never read as a whole."""

import mmap
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from workers.engine.checkpoint.digest import digest_of
from workers.engine.checkpoint.directory import Directory
from workers.engine.checkpoint.errors import CheckpointError, Fault, Problem
from workers.engine.checkpoint.shards import Stored
from workers.engine.checkpoint.verify import LAYER_SCALE, formats_of, problems_of
from workers.engine.config import OmniConfig
from workers.engine.quant import Format

TORCH_DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32,
    "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
    "U16": torch.uint16, "U32": torch.uint32, "U64": torch.uint64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip


class Checkpoint:
    """The official repository on a disk, in BF16 (or FP32), FP8 or NVFP4.

    Attributes:
        formats: of every linear module of the text that may be quantised, by module name.
    """

    def __init__(self, directory: Directory, formats: Mapping[str, Format]) -> None:
        self._directory = directory
        self.formats = formats

    @classmethod
    def open(cls, path: Path) -> "Checkpoint":
        """Reads configuration and headers and compares them.

        Raises:
            ConfigError: the configuration or the index cannot be meant.
            CheckpointError: lists what is missing, left over, cut short, or of another shape or dtype.
        """
        directory = Directory.open(path)
        formats = formats_of(directory.config, directory.stored)
        problems = problems_of(directory, formats)
        checkpoint = cls(directory, formats)
        problems += checkpoint._scaled_layers()
        if problems:
            raise CheckpointError(path, problems)
        return checkpoint

    @property
    def path(self) -> Path:
        return self._directory.path

    @property
    def config(self) -> OmniConfig:
        return self._directory.config

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._directory.stored)

    @property
    def size_bytes(self) -> int:
        return self._directory.size_bytes

    @cached_property
    def digest(self) -> str:
        """Of the weights and config.json; see `digest.py` for what it covers."""
        return digest_of(self._directory)

    def tensor(self, name: str) -> Tensor:
        """The tensor as it lies in its file: a view on the mapped bytes, not a copy, and to be read only.

        Raises:
            KeyError: no such name; `names` has them all.
        """
        one = self._directory.stored[name]
        dtype = TORCH_DTYPES[one.dtype]
        if one.size_bytes == 0:
            return torch.empty(one.shape, dtype=dtype)
        data = self._directory.map_of(one.path)
        if one.start % dtype.itemsize:
            # Only a writer that sorts by name does this, and only to what stands behind an odd number of bytes.
            return torch.frombuffer(bytearray(data[one.start : one.end]), dtype=dtype).view(one.shape)
        count = one.size_bytes // dtype.itemsize
        return torch.frombuffer(data, dtype=dtype, count=count, offset=one.start).view(one.shape)

    def _scaled_layers(self) -> list[Problem]:
        # This engine leaves the factors out, which is right while they are 1.
        names = [name for name in self.names if LAYER_SCALE.fullmatch(name)]
        changed = [name for name in names if not (self.tensor(name) == 1).all()]
        return [Problem(Fault.VALUE, name, "expected ones, got other factors") for name in changed]

    def release(self, name: str) -> None:
        """Gives the memory of its pages back; views on it stay good, and read from the file again."""
        one = self._directory.stored[name]
        start, length = _whole_pages(one)
        if length > 0:
            self._directory.map_of(one.path).madvise(mmap.MADV_DONTNEED, start, length)


def _whole_pages(one: Stored) -> tuple[int, int]:
    """Start and length of the pages that the tensor has for itself."""
    start = -(-one.start // mmap.PAGESIZE) * mmap.PAGESIZE
    return start, one.end // mmap.PAGESIZE * mmap.PAGESIZE - start
