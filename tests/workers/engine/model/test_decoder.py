import torch

from tests.workers.engine import oracle
from tests.workers.engine.parity import text
from tests.workers.engine.steps import Steps
from workers.engine.batch import LAST_SAMPLED, Piece


def test_a_step_in_which_nobody_samples_has_no_logits() -> None:
    steps = Steps(oracle.ours())
    launch = steps.batch.fill([], [Piece(text(5), 0, 1, [1, 2], sample=False)])
    assert steps.model.forward(launch, steps.state).shape == (0, 1280)
    assert steps.state.kv[0][1, :, :4].isfinite().all()


def test_rows_come_from_the_token_the_pool_or_the_last_sample() -> None:
    steps = Steps(oracle.ours(), media=torch.arange(96 * 3.0).view(3, 96))
    steps.state.last_token[2] = 1100
    prefill = Piece([1001, 18, 18], 0, 1, [1], media_rows=[-1, 2, 0])
    launch = steps.batch.fill([Piece([LAST_SAMPLED], 5, 2, [3, 4]), Piece([1002], 5, 3, [5, 6])], [prefill])
    rows = steps.model.decoder.embed(launch, steps.state)
    table = steps.model.decoder.embeddings
    expected = torch.stack([table[1100], table[1002], table[1001], steps.state.media[2], steps.state.media[0]])
    assert torch.equal(rows, expected)
