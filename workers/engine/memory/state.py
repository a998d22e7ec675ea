"""What the model remembers between steps, as tensors: Mamba states by slot, keys and values by block, media by row.

Which numbers are taken is the pools' business. Slot 0 and block 0 belong to padding: they are read, never written.
A slot of the published model in bf16: 48.2 MB of states, 0.28 MB for each place of a ring, 0.24 MB for each row of a
window.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.config import Mixer, TextConfig


@dataclass(frozen=True, slots=True)
class MambaState:
    """One layer.

    Attributes:
        ssm_state: [slots, H, P, N] f32, the state at the start of the window.
        window_xb: [slots, V, H P + G N], rows x and B since then.
        window_dt: [slots, V, H] f32, their steps after softplus.
        conv_ring: [slots, R, C], inputs of the convolution at position % R.
    """

    ssm_state: Tensor
    window_xb: Tensor
    window_dt: Tensor
    conv_ring: Tensor


@dataclass(frozen=True, slots=True)
class Limits:
    """How much is remembered, padding included.

    Attributes:
        slots: sequences, and one.
        blocks: KV blocks, and one.
        block: positions of one.
        window: rows of a window; 1 writes the state at every token.
        media_rows: rows of the embedding pool.
        ring: positions of a ring; at least the taps of the convolution before the token's own.
    """

    slots: int
    blocks: int
    block: int
    window: int = 1
    media_rows: int = 1
    ring: int = 4


@dataclass(frozen=True, slots=True)
class State:
    """
    Attributes:
        mamba: one for each Mamba layer, in order.
        kv: [blocks, 2, block, Hk, W] for each attention layer, in order.
        last_token: [slots] int64, what a sequence sampled last.
        media: [rows, hidden], outputs of the encoders that a prompt still needs.
    """

    mamba: tuple[MambaState, ...]
    kv: tuple[Tensor, ...]
    last_token: Tensor
    media: Tensor

    @classmethod
    def allocate(
        cls,
        config: TextConfig,
        limits: Limits,
        *,
        dtype: torch.dtype,
        kv_dtype: torch.dtype | None = None,
        device: torch.device | str = "cpu",
    ) -> "State":
        """Zeros of the sizes that a model asks for.

        Args:
            dtype: of windows, rings and media: that of the model.
            kv_dtype: of keys and values where it is another one (E4M3).
        """
        if limits.ring < config.conv_kernel - 1:
            raise ValueError(f"expected a ring of at least {config.conv_kernel - 1} positions, got {limits.ring}")
        kv_shape = (limits.blocks, 2, limits.block, config.num_key_value_heads, config.head_dim)
        return cls(
            mamba=tuple(_mamba(config, limits, dtype, device) for _ in config.layers_of(Mixer.MAMBA)),
            kv=tuple(
                torch.zeros(kv_shape, dtype=kv_dtype or dtype, device=device) for _ in config.layers_of(Mixer.ATTENTION)
            ),
            last_token=torch.zeros(limits.slots, dtype=torch.int64, device=device),
            media=torch.zeros(limits.media_rows, config.hidden_size, dtype=dtype, device=device),
        )


def _mamba(config: TextConfig, limits: Limits, dtype: torch.dtype, device: torch.device | str) -> MambaState:
    heads, slots, window = config.mamba_num_heads, limits.slots, limits.window
    xb = config.d_inner + config.n_groups * config.ssm_state_size
    shape = (slots, heads, config.mamba_head_dim, config.ssm_state_size)
    return MambaState(
        ssm_state=torch.zeros(shape, dtype=torch.float32, device=device),
        window_xb=torch.zeros(slots, window, xb, dtype=dtype, device=device),
        window_dt=torch.zeros(slots, window, heads, dtype=torch.float32, device=device),
        conv_ring=torch.zeros(slots, limits.ring, config.conv_dim, dtype=dtype, device=device),
    )
