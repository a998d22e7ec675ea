"""Full attention with relative positions inside each clip of sound.

    score_ij = [ (q_i + u) k_j + (q_i + v) p_{i-j} ] W^-0.5

Source: spec 4.2; arXiv 1901.02860, section 3.3 and appendix B.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def relative_attention(
    queries: Tensor, keys: Tensor, values: Tensor, relative: Tensor, bias_u: Tensor, bias_v: Tensor, valid: Tensor
) -> Tensor:
    """Each frame meets the valid frames of its clip; frames beyond them get an answer of no use.

    Args:
        queries, keys, values: [N, T, H, W].
        relative: [2 T - 1, H, W] keys of the distances T - 1 down to -(T - 1).
        bias_u, bias_v: [H, W].
        valid: [N] frames of each clip.

    Returns:
        [N, T, H, W].
    """
    return relative_attention_ref(queries, keys, values, relative, bias_u, bias_v, valid)


def relative_attention_ref(
    queries: Tensor, keys: Tensor, values: Tensor, relative: Tensor, bias_u: Tensor, bias_v: Tensor, valid: Tensor
) -> Tensor:
    frames, width = queries.shape[1], queries.shape[-1]
    by_distance = torch.einsum("nihw,phw->nhip", queries + bias_v, relative)
    at = torch.arange(frames, device=queries.device)
    # Row i of the distances begins at i - j = T - 1, so key j stands at place T - 1 - i + j.
    place = (frames - 1 - at[:, None] + at).expand(*by_distance.shape[:2], -1, -1)
    position = by_distance.gather(-1, place) * width**-0.5
    heard = (at < valid[:, None])[:, None, None]
    out = F.scaled_dot_product_attention(
        (queries + bias_u).transpose(1, 2),
        keys.transpose(1, 2),
        values.transpose(1, 2),
        position.where(heard, -torch.inf),
    )
    return out.transpose(1, 2)
