import pytest
import torch
from torch import Tensor

from workers.engine.features.pixels import normalise, patches, resize, tubelets

MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(3, 1, 1)


def keys(distance: Tensor) -> Tensor:
    """Keys' cubic, a = -0.5."""
    x = distance.abs()
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return near.where(x <= 1, far.where(x < 2, torch.zeros_like(x)))


def matrix(old: int, new: int) -> Tensor:
    """[new, old] weights of an antialiased resize along one side."""
    scale = old / new
    width = max(scale, 1.0)
    centres = (torch.arange(new, dtype=torch.float64) + 0.5) * scale - 0.5
    weights = keys((torch.arange(old)[None, :] - centres[:, None]) / width)
    return weights / weights.sum(1, keepdim=True)


@pytest.mark.parametrize(("old", "new"), [((50, 31), (16, 48)), ((20, 20), (64, 32)), ((33, 70), (32, 32))])
def test_resize_is_the_antialiased_cubic_with_its_overshoot(old: tuple[int, int], new: tuple[int, int]) -> None:
    torch.manual_seed(0)
    pictures = torch.randint(0, 2, (2, 3, *old)) * 255
    expected = matrix(old[0], new[0]) @ pictures.double() @ matrix(old[1], new[1]).T
    got = resize(pictures.to(torch.uint8), new)
    assert got.dtype == torch.float32
    assert torch.allclose(got.double(), expected, atol=2e-3)
    assert got.min() < 0 or got.max() > 255


def test_a_picture_of_the_right_size_is_left_alone() -> None:
    picture = torch.randint(0, 256, (1, 3, 32, 48), dtype=torch.uint8)
    assert torch.equal(resize(picture, (32, 48)), picture.float())


def test_patches_run_by_channel_row_and_column() -> None:
    picture = torch.arange(3 * 4 * 6).view(1, 3, 4, 6)
    cut = patches(picture, 2)
    assert cut.shape == (1, 6, 12)
    assert cut[0, 4].tolist() == picture[0, :, 2:4, 2:4].flatten().tolist()


def test_tubelets_stack_frames_and_repeat_the_last() -> None:
    frames = torch.arange(3)[:, None, None, None].expand(3, 3, 2, 2)
    stacked = tubelets(frames)
    assert stacked.shape == (2, 6, 2, 2)
    assert stacked[:, :, 0, 0].tolist() == [[0, 0, 0, 1, 1, 1], [2, 2, 2, 2, 2, 2]]


def test_a_tubelets_patch_runs_by_frame_first() -> None:
    frames = torch.randn(2, 3, 8, 8)
    rows = patches(tubelets(frames), 4)
    assert rows.shape == (1, 4, 96)
    for at in range(2):
        assert torch.equal(rows[0, :, 48 * at : 48 * (at + 1)], patches(frames[at : at + 1], 4)[0])


def test_normalising_uses_the_statistics_of_each_channel() -> None:
    white = normalise(torch.full((1, 3, 1, 1), 255.0), MEAN, STD)
    assert white.flatten().tolist() == pytest.approx([1.9303, 2.0749, 2.1459], abs=1e-4)


def test_pictures_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"expected \[N, 3, height, width\], got \[3, 8, 8\]"):
        resize(torch.zeros(3, 8, 8), (4, 4))
    with pytest.raises(ValueError, match="multiples of 4 pixels, got 8 x 6"):
        patches(torch.zeros(1, 3, 8, 6), 4)
    with pytest.raises(ValueError, match="at least one frame"):
        tubelets(torch.zeros(0, 3, 4, 4))
