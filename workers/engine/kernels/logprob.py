"""What the model gave the token that was taken: before masks, temperature and cuts."""

from torch import Tensor


def logprob(logits: Tensor, ids: Tensor) -> Tensor:
    """Natural logarithm of a token's probability.

    Args:
        logits: [S, vocab] of any float dtype.
        ids: [S] int64.

    Returns:
        [S] f32.
    """
    return logprob_ref(logits, ids)


def logprob_ref(logits: Tensor, ids: Tensor) -> Tensor:
    logits = logits.float()
    return logits.gather(1, ids[:, None]).squeeze(1) - logits.logsumexp(-1)
