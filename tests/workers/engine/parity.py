"""How far we are from the published implementation, on the tiny checkpoint in fp32: `make parity`.

    python -m tests.workers.engine.parity

Everything of the text runs as it does in the engine: through a batch, a paged cache and state slots.
"""

import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tests.workers.engine import oracle
from tests.workers.engine.steps import Steps, Track
from workers.engine.features.evs import choose
from workers.engine.features.grids import Grid
from workers.engine.features.mel import Mel, log_mel, subsampled
from workers.engine.features.pixels import patches, tubelets

TOLERANCE = 1e-4
GRIDS = [Grid(4, 6), Grid(8, 8), Grid(16, 16), Grid(2, 18), Grid(18, 4)]  # the table has 16 x 16
FRAME = Grid(4, 6)
CLIPS = (16000, 9000, 30001)


@dataclass(frozen=True, slots=True)
class Check:
    """One row of the table: `run` gives the largest absolute difference."""

    what: str
    run: Callable[[], float]
    tolerance: float = TOLERANCE


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def text(length: int, seed: int = 0) -> list[int]:
    return torch.randint(1000, 1256, (length,), generator=generator(seed)).tolist()


def difference(ours: Tensor, theirs: Tensor) -> float:
    """NaN counts as infinite: no comparison with it is ever true."""
    assert ours.shape == theirs.shape, (ours.shape, theirs.shape)
    return float((ours - theirs).abs().nan_to_num(nan=torch.inf).max())


def prefill(chunks: list[int]) -> float:
    ids = text(sum(chunks))
    steps, theirs = Steps(oracle.ours()), oracle.logits(ids)
    track, worst = steps.track(ids, slot=2), 0.0
    for count in chunks:
        got = steps.step(prefills=[(track, count)])
        worst = max(worst, difference(got[0], theirs[track.computed - 1]))
    return worst


def prefill_at_every_boundary() -> float:
    return max(prefill([first, 37 - first]) for first in range(1, 37))


def decode(window: int) -> float:
    ids = text(48)
    steps, theirs = Steps(oracle.ours(), window=window), oracle.logits(ids)
    track = steps.track(ids, slot=1)
    worst = difference(steps.step(prefills=[(track, 21)])[0], theirs[20])
    for at in range(21, 48):
        worst = max(worst, difference(steps.step(decodes=[track])[0], theirs[at]))
    return worst


def mixture() -> float:
    """Three sequences that come one after another: each step decodes some and prefills others, with padding."""
    steps = Steps(oracle.ours(), window=3)
    tracks = [steps.track(text(length, seed), slot=seed + 1) for seed, length in enumerate((40, 33, 27))]
    theirs = [oracle.logits(track.ids) for track in tracks]
    plan: list[tuple[list[int], list[tuple[int, int]]]] = [
        ([], [(0, 9)]), ([0], [(1, 5)]), ([0], [(1, 11), (2, 3)]), ([0, 1], [(2, 8)]), ([0, 1, 2], []), ([2, 0], []),
    ]  # fmt: skip
    worst = 0.0
    for decodes, prefills in plan:
        got = steps.step(
            [tracks[at] for at in decodes], [(tracks[at], n) for at, n in prefills], pad_decodes=4, pad_tokens=24
        )
        at = decodes + [at for at, _ in prefills]
        expected = torch.stack([theirs[one][tracks[one].computed - 1] for one in at])
        worst = max(worst, difference(got, expected))
    return worst


def pictures(grids: list[Grid]) -> Tensor:
    return torch.randn(sum(grid.patches for grid in grids), 48, generator=generator())


@torch.no_grad()
def image() -> float:
    packed, sizes = pictures(GRIDS), torch.tensor([[grid.rows, grid.columns] for grid in GRIDS])
    theirs = oracle.published().get_image_features(packed, sizes).pooler_output
    return difference(oracle.ours().encode_images(packed, GRIDS), torch.cat(theirs))


@torch.no_grad()
def video_tokens(count: int) -> tuple[Tensor, Tensor]:
    """Ours and theirs for `count` frames."""
    frames = torch.randn(count, 3, *FRAME.size_px(4), generator=generator())
    ours = oracle.ours().encode_video(patches(tubelets(frames), 4), FRAME)
    return ours, oracle.published().get_video_features(frames).pooler_output


def video() -> float:
    return max(difference(*video_tokens(count)) for count in (4, 5))


def waveforms() -> list[Tensor]:
    return [torch.randn(length, generator=generator(length)) for length in CLIPS]


def mel_frames() -> float:
    from transformers import ParakeetFeatureExtractor

    extract = ParakeetFeatureExtractor(feature_size=128)
    theirs = extract([one.numpy() for one in waveforms()], sampling_rate=16000)["input_features"]
    return difference(log_mel(waveforms()).frames, torch.as_tensor(theirs))


@torch.no_grad()
def their_sound(mel: Mel) -> Tensor:
    """Without the frame of padding that their count may keep (spec 4.3)."""
    model = oracle.published()
    mask = torch.arange(mel.frames.shape[1]) < mel.counts[:, None]
    hidden = model.audio_tower(input_features=mel.frames, attention_mask=mask).last_hidden_state
    rows = [clip[: subsampled(valid)] for clip, valid in zip(model.embed_audio(hidden), mel.valid, strict=True)]
    return torch.cat(rows)


@torch.no_grad()
def sound() -> float:
    mel = log_mel(waveforms())
    return difference(oracle.ours().encode_sound(mel), their_sound(mel))


def answered(placeholder: int, ours: Tensor, theirs: Tensor) -> float:
    """Logits behind a prompt around media, cut inside them, then decoded."""
    ids = text(7) + [placeholder] * len(ours) + text(9, 1)
    steps = Steps(oracle.ours(), positions=len(ids), media=ours, window=2)
    rows = [-1] * 7 + list(range(len(ours))) + [-1] * 9
    track: Track = steps.track(ids, slot=3, media_rows=rows)
    expected = oracle.logits(ids, theirs)
    worst = 0.0
    for count in (7 + len(ours) // 2, len(ours) - len(ours) // 2 + 2):
        worst = max(worst, difference(steps.step(prefills=[(track, count)])[0], expected[track.computed - 1]))
    for _ in range(7):
        worst = max(worst, difference(steps.step(decodes=[track])[0], expected[track.computed - 1]))
    return worst


@torch.no_grad()
def image_answer() -> float:
    packed, sizes = pictures(GRIDS[:2]), torch.tensor([[grid.rows, grid.columns] for grid in GRIDS[:2]])
    theirs = torch.cat(oracle.published().get_image_features(packed, sizes).pooler_output)
    return answered(oracle.IMAGE, oracle.ours().encode_images(packed, GRIDS[:2]), theirs)


def video_answer() -> float:
    """Half of the tokens are dropped, each side by its own choice."""
    from transformers.models.nemotron_h_omni.modeling_nemotron_h_omni import compute_retention_mask

    ours, theirs = video_tokens(9)
    thw = torch.tensor([len(theirs), FRAME.rows, FRAME.columns])
    mask = compute_retention_mask(video_embeds=theirs, thw=thw, spatial_merge_size=2, q=0.5)
    kept = choose(ours, 0.5)
    return answered(oracle.IMAGE, ours.flatten(0, 1)[kept.index], theirs.flatten(0, 1)[mask])


@torch.no_grad()
def sound_answer() -> float:
    mel = log_mel(waveforms())
    return answered(oracle.SOUND, oracle.ours().encode_sound(mel), their_sound(mel))


CHECKS = (
    Check("text: logits, whole prefill", lambda: prefill([61])),
    Check("text: logits, prefill cut at each of 36 places", prefill_at_every_boundary),
    Check("text: logits, prefill one token at a time", lambda: prefill([1] * 20)),
    Check("text: logits, 27 decode steps, window 1", lambda: decode(1)),
    Check("text: logits, 27 decode steps, window 8", lambda: decode(8)),
    Check("text: logits, three sequences mixed, padded, window 3", mixture),
    Check("image: features of five grids", image),
    Check("video: features of even and odd frame counts", video),
    Check("sound: log-mel frames of three clips", mel_frames),
    Check("sound: features of three clips", sound),
    Check("image: logits", image_answer),
    Check("video: logits, half of the tokens dropped", video_answer),
    Check("sound: logits", sound_answer),
)


def main() -> int:
    print(f"| {'what':55} | {'max abs diff':>12} | {'tolerance':>9} |\n| {'-' * 55} | {'-' * 12} | {'-' * 9} |")
    bad = 0
    for check in CHECKS:
        worst = check.run()
        bad += not worst <= check.tolerance
        print(f"| {check.what:55} | {worst:12.1e} | {check.tolerance:9.0e} |", "" if worst <= check.tolerance else "!")
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main())
