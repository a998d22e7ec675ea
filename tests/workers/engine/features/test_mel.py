import numpy as np
import pytest
import torch

from workers.engine.features.mel import (
    CLIP_SAMPLES,
    clip_tokens,
    clips,
    log_mel,
    mel_filters,
    subsampled,
)


def noise(samples: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    tone = torch.sin(torch.arange(samples) * 0.2) * 0.3
    return tone + 0.05 * torch.randn(samples, generator=generator)


def test_the_filters_are_slaneys() -> None:
    from transformers.audio_utils import mel_filter_bank

    published = mel_filter_bank(257, 128, 0.0, 8000.0, 16000, norm="slaney", mel_scale="slaney", dtype=np.float32)
    assert np.abs(mel_filters().numpy() - published.T).max() < 1e-6


def test_the_filters_keep_their_numbers() -> None:
    filters = mel_filters()
    assert [int(filters[at].argmax()) for at in (0, 64, 127)] == [1, 55, 250]
    assert [float(filters[at].max()) for at in (0, 64, 127)] == pytest.approx([0.0284, 0.0188, 0.0052], abs=1e-4)
    assert float(filters.sum()) == pytest.approx(4.0905, abs=1e-3)


@pytest.mark.parametrize("lengths", [(16000,), (1600, 1759, 1760), (5000, 24321, 8000)])
def test_frames_equal_the_published_extractor(lengths: tuple[int, ...]) -> None:
    from transformers import ParakeetFeatureExtractor

    waveforms = [noise(length, seed) for seed, length in enumerate(lengths)]
    published = ParakeetFeatureExtractor(feature_size=128)([one.numpy() for one in waveforms], sampling_rate=16000)
    mel = log_mel(waveforms)
    assert mel.valid == tuple(length // 160 for length in lengths)
    assert mel.frames.shape == (len(lengths), 1 + max(lengths) // 160, 128)
    assert torch.allclose(mel.frames, torch.as_tensor(published["input_features"]), atol=1e-3)
    for clip, valid in zip(mel.frames, mel.valid, strict=True):
        assert clip[valid:].abs().sum() == 0


def test_a_clip_has_the_same_frames_alone_and_in_company() -> None:
    alone, company = log_mel([noise(4000)]), log_mel([noise(4000), noise(9000, 1)])
    assert torch.allclose(company.frames[0, :25], alone.frames[0, :25], atol=1e-5)


def test_each_clip_is_normalised_over_its_own_frames() -> None:
    valid = log_mel([noise(8000), 0.01 * noise(32000, 1)]).frames[0, :50]
    assert valid.mean(0).abs().max() < 1e-4
    assert torch.allclose(valid.std(0), torch.ones(128), atol=1e-3)


# Samples, frames, tokens of one clip: spec 4.3 and its formula.
@pytest.mark.parametrize(
    ("samples", "frames", "tokens"),
    [(480000, 3000, 375), (1600, 10, 2), (16000, 100, 13), (159, 0, 1), (1279, 7, 1), (1440, 9, 2), (2720, 17, 3)],
)
def test_a_clip_becomes_the_published_number_of_tokens(samples: int, frames: int, tokens: int) -> None:
    assert samples // 160 == frames
    assert clip_tokens(samples) == tokens


@pytest.mark.parametrize(
    ("seconds", "tokens"), [(30, 375), (60, 750), (3600, 45000), (45, 563), (30.05, 377), (0.01, 2), (0, 2)]
)
def test_a_recording_becomes_the_tokens_of_its_windows(seconds: float, tokens: int) -> None:
    recording = torch.zeros(1).expand(int(seconds * 16000))
    assert sum(clip_tokens(len(clip)) for clip in clips(recording)) == tokens


def test_windows_are_thirty_seconds_and_the_last_is_filled_up() -> None:
    assert [len(clip) for clip in clips(torch.zeros(2 * CLIP_SAMPLES))] == [CLIP_SAMPLES] * 2
    assert [len(clip) for clip in clips(torch.zeros(CLIP_SAMPLES + 5))] == [CLIP_SAMPLES, 1600]
    assert [len(clip) for clip in clips(torch.zeros(3))] == [1600]


def test_subsampling_halves_three_times_upwards() -> None:
    assert [subsampled(frames) for frames in (1, 8, 9, 16, 17, 3000, 3001)] == [1, 1, 2, 2, 3, 375, 376]


def test_other_shapes_and_short_clips_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one channel, got \[2, 1600\]"):
        clips(torch.zeros(2, 1600))
    with pytest.raises(ValueError, match="at least 1600 samples, got one of 1599"):
        log_mel([torch.zeros(1599)])
