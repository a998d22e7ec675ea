"""Sequences driven through batch, state and model by hand, as a scheduler would, with everything unwritten at NaN."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tests.workers.engine.no_sync import NoSync
from workers.engine.batch import LAST_SAMPLED, Batch, Piece
from workers.engine.memory.state import Limits, State
from workers.engine.model.omni import OmniModel

SEQUENCES, BLOCK = 4, 4


@dataclass
class Track:
    """One sequence: what it will have been fed in the end, and how far it is."""

    ids: list[int]
    slot: int
    blocks: list[int]
    media_rows: list[int] = field(default_factory=list)
    computed: int = 0
    window_len: int = 0


class Steps:
    """Runs steps; none of them may wait for the device.

    Args:
        positions: of the longest sequence.
        window: rows of a window.
        tokens: most of a step.
    """

    def __init__(
        self,
        model: OmniModel,
        *,
        positions: int = 64,
        window: int = 1,
        ring: int = 4,
        media: Tensor | None = None,
        kv_dtype: torch.dtype | None = None,
        tokens: int = 256,
        block: int = BLOCK,
    ) -> None:
        self.model, self.window, self.blocks = model, window, -(-positions // block)
        dtype, device = model.decoder.embeddings.dtype, model.decoder.embeddings.device
        media_rows = 1 if media is None else len(media)
        limits = Limits(SEQUENCES + 1, 1 + SEQUENCES * self.blocks, block, window, media_rows, ring)
        self.state = State.allocate(model.config.text, limits, dtype=dtype, kv_dtype=kv_dtype, device=device)
        for tensor in self.memory():
            tensor.fill_(torch.nan)
        if media is not None:
            self.state.media.copy_(media)
        self.batch = Batch(
            tokens=tokens, sequences=2 * SEQUENCES + 1, blocks=max(self.blocks, 64), block=block, device=device
        )

    def memory(self) -> list[Tensor]:
        """Every tensor that a step may write."""
        layers = [one for layer in self.state.mamba for one in (layer.ssm_state, layer.window_xb, layer.window_dt)]
        return [*layers, *(layer.conv_ring for layer in self.state.mamba), *self.state.kv]

    def track(self, ids: Sequence[int], slot: int, media_rows: Sequence[int] = ()) -> Track:
        first = 1 + (slot - 1) * self.blocks
        # Backwards, so that no test passes because blocks happen to follow one another.
        return Track(list(ids), slot, list(range(first, first + self.blocks))[::-1], list(media_rows))

    @torch.no_grad()
    def step(
        self, decodes: Sequence[Track] = (), prefills: Sequence[tuple[Track, int]] = (), *, early_flush: bool = False,
        pad_decodes: int = 0, pad_tokens: int = 0,
    ) -> Tensor:  # fmt: skip
        """One token of each of `decodes`, so many of each of `prefills`; logits behind each of them, [S, vocab]."""
        ones = [self._decode(track, early_flush) for track in decodes]
        launch = self.batch.fill(
            ones, [_prefill(track, count) for track, count in prefills], pad_decodes=pad_decodes, pad_tokens=pad_tokens
        )
        with NoSync():
            logits = self.model.forward(launch, self.state)
        for track, piece in zip(decodes, ones, strict=True):
            track.computed += 1
            track.window_len = 0 if piece.flush else track.window_len + 1
        for track, count in prefills:
            track.computed += count
        return logits

    def _decode(self, track: Track, early_flush: bool) -> Piece:
        # The id lies where the sampler would have put it.
        self.state.last_token[track.slot] = track.ids[track.computed]
        flush = early_flush or track.window_len == self.window - 1
        return Piece([LAST_SAMPLED], track.computed, track.slot, track.blocks, True, track.window_len, flush)


def _prefill(track: Track, count: int) -> Piece:
    at = slice(track.computed, track.computed + count)
    return Piece(track.ids[at], track.computed, track.slot, track.blocks, media_rows=track.media_rows[at])
