"""Full attention inside each picture of a packed row of pictures.

Source: spec 3.1.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def segment_attention(queries: Tensor, keys: Tensor, values: Tensor, lengths: Sequence[int]) -> Tensor:
    """Each token meets the tokens of its own segment.

    Args:
        queries, keys, values: [T, H, W].
        lengths: tokens of each segment, T together; the host knows them.

    Returns:
        [T, H, W].
    """
    return segment_attention_ref(queries, keys, values, lengths)


def segment_attention_ref(queries: Tensor, keys: Tensor, values: Tensor, lengths: Sequence[int]) -> Tensor:
    if len(set(lengths)) == 1:  # the tubelets of a video: one call for all
        return _attend(torch.stack([queries, keys, values]).unflatten(1, (len(lengths), -1))).flatten(0, 1)
    parts = torch.stack([queries, keys, values])[:, None].split(list(lengths), dim=2)
    return torch.cat([_attend(part)[0] for part in parts])


def _attend(qkv: Tensor) -> Tensor:
    """[3, N, T, H, W] into [N, T, H, W]."""
    queries, keys, values = qkv.transpose(2, 3).unbind()
    return F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2)
