import pytest
import torch

from workers.engine.features.evs import choose, kept_tokens


@pytest.mark.parametrize(
    ("tubelets", "per_tubelet", "rate", "kept"),
    [
        (2, 256, 0.5, 256),  # three frames of 512 x 512
        (128, 256, 0.5, 16384),
        (128, 256, 0.7, 9830),
        (1, 252, 0.7, 252),
        (3, 252, 0.7, 252),
        (5, 252, 0.0, 1260),
    ],
)
def test_the_share_that_stays_is_the_published_one(tubelets: int, per_tubelet: int, rate: float, kept: int) -> None:
    assert kept_tokens(tubelets, per_tubelet, rate) == kept


def test_a_still_video_keeps_its_first_tubelet_only() -> None:
    kept = choose(torch.ones(1, 6, 8).expand(2, 6, 8), 0.5)
    assert kept.counts.tolist() == [6, 0]
    assert kept.index.tolist() == list(range(6))


def test_what_changed_most_stays_in_order() -> None:
    tokens = torch.ones(3, 4, 2)
    tokens[1, 2] = torch.tensor([-1.0, -1.0])  # opposite: changes at 1 and back at 2
    tokens[2, 0] = torch.tensor([1.0, 0.0])
    kept = choose(tokens, 0.4)  # 7 of 12
    assert kept.index.tolist() == [0, 1, 2, 3, 6, 8, 10]
    assert kept.counts.tolist() == [4, 1, 2]


def test_ties_keep_the_earlier_token() -> None:
    tokens = torch.eye(4)[:, None, :].expand(4, 5, 4)  # every later token changes by 1
    kept = choose(tokens, 0.6)  # 8 of 20
    assert kept.index.tolist() == list(range(8))


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.7])
def test_the_choice_equals_the_published_one(rate: float) -> None:
    from transformers.models.nemotron_h_omni.modeling_nemotron_h_omni import compute_retention_mask

    torch.manual_seed(0)
    tokens = torch.randn(1, 12, 16) + 0.5 * torch.randn(6, 12, 16)
    mask = compute_retention_mask(video_embeds=tokens.reshape(-1, 16), thw=(6, 3, 4), spatial_merge_size=1, q=rate)
    assert choose(tokens, rate).index.tolist() == mask.nonzero().flatten().tolist()


@pytest.mark.parametrize("rate", [-0.1, 1.0])
def test_a_rate_that_drops_everything_is_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="below 1"):
        kept_tokens(2, 4, rate)
