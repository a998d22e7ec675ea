"""One step's work as tensors at fixed addresses: what every kernel reads, and the only thing that changes per step.

Rows are tokens. The sequences that decode come first, one row each; then those that prefill, their rows one after
another. A sequence that pads stands in slot 0, its keys in slot 0: it is computed like any other and writes nothing.

    rows        d0 d1 d2 | p0 p0 p0 p0 | p1 p1        decodes = 3, sequences = 5, tokens = 9
    query_start 0  1  2    3             7       9

A `Batch` is filled on the host and travels in one copy; `Launch` is what one step sees of it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

LAST_SAMPLED = -1  # as a token id: what this sequence sampled last, which may still be on the device
TEXT = -1  # as a media row: no row of the embedding pool
ROW_FIELDS = ("token_ids", "positions", "kv_slot", "media_row")
SEQUENCE_FIELDS = ("context_len", "state_slot", "window_len")
FLAGS = ("flush", "has_initial_state")


@dataclass(frozen=True, slots=True)
class Piece:
    """What one sequence runs in a step.

    Attributes:
        token_ids: ids of the new tokens; `LAST_SAMPLED` stands for the sampled one in a decoding sequence.
        start: position of the first.
        state_slot: its Mamba state.
        blocks: its KV blocks in order, enough for `start + len(token_ids)`.
        sample: whether the logits behind its last token are wanted.
        window_len: rows in its window; 0 in a prefill.
        flush: whether this step writes the state; a prefill always does.
        media_rows: row in the embedding pool for each token, or `TEXT`; empty where all is text.
    """

    token_ids: Sequence[int]
    start: int
    state_slot: int
    blocks: Sequence[int]
    sample: bool = True
    window_len: int = 0
    flush: bool = True
    media_rows: Sequence[int] = ()

    @property
    def end(self) -> int:
        return self.start + len(self.token_ids)


@dataclass(frozen=True, slots=True)
class Shape:
    """Sizes that the host knows; two steps of one shape run the same kernels.

    Attributes:
        decodes: sequences, and rows, that decode.
        sequences, tokens, samples: all of them, padding included.
        longest_query: rows of the longest prefill, 0 without one.
        longest_context: positions of the longest sequence.
    """

    decodes: int
    sequences: int
    tokens: int
    samples: int
    longest_query: int
    longest_context: int


@dataclass(frozen=True, slots=True)
class Launch:
    """One step. Views of the batch's tensors: T rows, S sequences.

    Attributes:
        token_ids, positions, kv_slot, media_row: [T] int64.
        query_start: [S + 1] int64.
        context_len, state_slot, window_len: [S] int64; `context_len` counts the tokens of this step as well.
        flush, has_initial_state: [S] bool.
        block_table: [S, most blocks] int32.
        sample_row: [samples] int64, the rows whose logits are wanted.
    """

    shape: Shape
    token_ids: Tensor
    positions: Tensor
    kv_slot: Tensor
    media_row: Tensor
    query_start: Tensor
    context_len: Tensor
    state_slot: Tensor
    window_len: Tensor
    flush: Tensor
    has_initial_state: Tensor
    block_table: Tensor
    sample_row: Tensor


class Batch:
    """The tensors of a step, allocated once. The host has two sides, for the copy of one may still be under way.

    Args:
        tokens, sequences: most of a step.
        blocks: most of a sequence.
        block: positions of one KV block.
    """

    def __init__(
        self, *, tokens: int, sequences: int, blocks: int, block: int, device: torch.device | str = "cpu"
    ) -> None:
        self.block = block
        pin = torch.device(device).type == "cuda"
        self._hosts = [_Tables(tokens, sequences, blocks, "cpu", pin=pin) for _ in range(2)]
        self._device = _Tables(tokens, sequences, blocks, device)

    def fill(
        self,
        decodes: Sequence[Piece],
        prefills: Sequence[Piece],
        *,
        pad_decodes: int = 0,
        pad_tokens: int = 0,
        pad_samples: bool = False,
    ) -> Launch:
        """Writes a step and sends it, behind what the device still has to do. The step before the last must be over.

        Args:
            decodes, prefills: at least one of them.
            pad_decodes: decoding sequences at least.
            pad_tokens: rows at least; those too many belong to one more sequence that prefills.
            pad_samples: the logits of padding are wanted too, as a graph of that many sequences gives them.

        Raises:
            ValueError: more than was allocated, or a piece that its state does not allow.
        """
        padding = _padding(sample=pad_samples)
        pieces = [*decodes, *[padding] * (pad_decodes - len(decodes))]
        count = len(pieces)
        pieces += prefills
        short = pad_tokens - sum(len(piece.token_ids) for piece in pieces)
        if short > 0:
            pieces.append(Piece([0] * short, 0, 0, [0] * -(-short // self.block), sample=False, flush=False))
        _check(decodes, prefills, self.block)
        shape = _shape(pieces, count)
        host = self._hosts[0]
        host.check(shape, max(len(piece.blocks) for piece in pieces))
        self._hosts.reverse()
        host.write(pieces, self.block)
        self._device.bytes.copy_(host.bytes, non_blocking=True)
        return self._device.launch(shape)

    def padding(self, sequences: int) -> Launch:
        """A step of that many decoding sequences, none of which is one, with the largest bounds there are."""
        pieces = [_padding(sample=True)] * sequences
        host = self._hosts[0]
        self._hosts.reverse()
        host.write(pieces, self.block)
        self._device.bytes.copy_(host.bytes)
        most = self._device.fields["block_table"].shape[1] * self.block
        return self._device.launch(replace(_shape(pieces, sequences), longest_context=most))


class _Tables:
    """Every field by name, in one piece of memory."""

    def __init__(
        self, tokens: int, sequences: int, blocks: int, device: torch.device | str, *, pin: bool = False
    ) -> None:
        shapes: dict[str, tuple[int, ...]] = dict.fromkeys(ROW_FIELDS, (tokens,))
        shapes |= dict.fromkeys((*SEQUENCE_FIELDS, *FLAGS, "sample_row"), (sequences,))
        shapes |= {"query_start": (sequences + 1,), "block_table": (sequences, blocks)}
        dtypes = {"block_table": torch.int32} | dict.fromkeys(FLAGS, torch.bool)
        # The widest first: each field then begins at a multiple of its own width.
        names = sorted(shapes, key=lambda name: -dtypes.get(name, torch.int64).itemsize)
        sizes = [prod(shapes[name]) * dtypes.get(name, torch.int64).itemsize for name in names]
        self.bytes = torch.zeros(sum(sizes), dtype=torch.uint8, device=device, pin_memory=pin)
        parts = zip(names, self.bytes.split(sizes), strict=True)
        self.fields = {name: part.view(dtypes.get(name, torch.int64)).view(shapes[name]) for name, part in parts}

    def check(self, shape: Shape, blocks: int) -> None:
        have = (len(self.fields["token_ids"]), *self.fields["block_table"].shape)
        if shape.tokens > have[0] or shape.sequences > have[1] or blocks > have[2]:
            raise ValueError(
                f"expected at most {have[0]} tokens of {have[1]} sequences with {have[2]} blocks, "
                f"got {shape.tokens} of {shape.sequences} with {blocks}"
            )

    def write(self, pieces: Sequence[Piece], block: int) -> None:
        columns: dict[str, list[int]] = {name: [] for name in self.fields if name != "block_table"}
        columns["query_start"].append(0)
        table = self.fields["block_table"].numpy()
        for at, piece in enumerate(pieces):
            _add_rows(columns, piece, block)
            _add_sequence(columns, piece)
            table[at, : len(piece.blocks)] = piece.blocks
        for name, values in columns.items():
            self.fields[name].numpy()[: len(values)] = values

    def launch(self, shape: Shape) -> Launch:
        lengths = dict.fromkeys(ROW_FIELDS, shape.tokens)
        lengths |= {"query_start": shape.sequences + 1, "sample_row": shape.samples}
        views = {name: field[: lengths.get(name, shape.sequences)] for name, field in self.fields.items()}
        return Launch(shape=shape, **views)


def _padding(*, sample: bool) -> Piece:
    return Piece([0], 0, 0, [0], sample=sample, flush=False)


def _add_rows(columns: dict[str, list[int]], piece: Piece, block: int) -> None:
    positions = range(piece.start, piece.end)
    columns["token_ids"] += piece.token_ids
    columns["positions"] += positions
    columns["kv_slot"] += [
        piece.blocks[at // block] * block + at % block if piece.state_slot else 0 for at in positions
    ]
    columns["media_row"] += piece.media_rows or [TEXT] * len(positions)


def _add_sequence(columns: dict[str, list[int]], piece: Piece) -> None:
    behind = columns["query_start"][-1] + len(piece.token_ids)
    columns["query_start"].append(behind)
    columns["context_len"].append(piece.end)
    columns["state_slot"].append(piece.state_slot)
    columns["window_len"].append(piece.window_len)
    columns["flush"].append(piece.flush)
    columns["has_initial_state"].append(piece.start > 0)
    columns["sample_row"] += [behind - 1] if piece.sample else []


def _shape(pieces: Sequence[Piece], decodes: int) -> Shape:
    return Shape(
        decodes=decodes,
        sequences=len(pieces),
        tokens=sum(len(piece.token_ids) for piece in pieces),
        samples=sum(piece.sample for piece in pieces),
        longest_query=max((len(piece.token_ids) for piece in pieces[decodes:]), default=0),
        longest_context=max((piece.end for piece in pieces), default=0),
    )


def _check(decodes: Sequence[Piece], prefills: Sequence[Piece], block: int) -> None:
    if not decodes and not prefills:
        raise ValueError("expected at least one sequence, got none")
    for piece in decodes:
        if len(piece.token_ids) != 1 or piece.start < 1:
            raise ValueError(f"expected one token behind others to decode, got {len(piece.token_ids)} at {piece.start}")
    for piece in prefills:
        if piece.window_len or not piece.flush or LAST_SAMPLED in piece.token_ids or not piece.token_ids:
            raise ValueError(f"expected known tokens, an empty window and a flush to prefill, got {piece}")
    for piece in (*decodes, *prefills):
        if len(piece.blocks) * block < piece.end or piece.state_slot < 1 or 0 in piece.blocks:
            raise ValueError(f"expected a slot and blocks above 0 for {piece.end} positions, got {piece}")
        if piece.media_rows and len(piece.media_rows) != len(piece.token_ids):
            raise ValueError(f"expected {len(piece.token_ids)} media rows, got {len(piece.media_rows)}")
