"""BF16 on a card against the published implementation, on a slice of the model with its real layer sizes.

    python -m tests.gpu.slice_parity [--size tiny] [--device cpu]

The truth is the published implementation in fp32 with the same weights. Ours, and the published one in BF16, are each
some way off: ‖x - truth‖ / ‖truth‖ over features or logits. Ours may be off by twice as much as theirs.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tests.workers.engine import oracle
from tests.workers.engine.steps import Steps
from workers.engine.checkpoint import configs
from workers.engine.checkpoint.drawn import Drawn
from workers.engine.checkpoint.weights import Weights
from workers.engine.features.grids import Grid
from workers.engine.features.mel import Mel, log_mel, subsampled
from workers.engine.features.pixels import patches, tubelets
from workers.engine.model.omni import OmniModel

TIMES = 2.0  # as far off as the published implementation in BF16
DECODES = 40


@dataclass(frozen=True)
class Sizes:
    """What is asked: tokens of text, patches of a page, of a frame, frames, seconds of each recording."""

    text: int
    page: Grid
    frame: Grid
    frames: int
    seconds: tuple[float, ...]


SIZES = {
    "slice": Sizes(1500, Grid(104, 80), Grid(24, 42), 16, (30.0, 17.3)),
    "tiny": Sizes(150, Grid(8, 6), Grid(4, 6), 5, (1.0, 0.7)),
}


@dataclass(frozen=True)
class Medium:
    """Features of a medium by each of the three: tokens of a prompt."""

    name: str
    placeholder: int
    truth: Tensor
    theirs: Tensor
    ours: Tensor


class Slice:
    """The three models, and what each makes of the same inputs."""

    def __init__(self, size: str, device: str) -> None:
        raw = configs.sliced() if size == "slice" else configs.tiny()
        source = Drawn(raw, device=device)
        self.sizes, self.device = SIZES[size], device
        self.truth = oracle.load(source, torch.float32, device)
        self.theirs = oracle.load(source, torch.bfloat16, device)
        self.ours = OmniModel.load(Weights(source, device, torch.bfloat16))
        self.config = source.config
        self._noise = torch.Generator().manual_seed(1)

    def text(self, count: int) -> list[int]:
        low = 1000 if self.config.text.vocab_size > 1000 else 100
        return torch.randint(low, self.config.text.vocab_size, (count,), generator=self._noise).tolist()

    @torch.no_grad()
    def media(self) -> Iterator[Medium]:
        yield self._image()
        yield self._video()
        yield self._sound()

    def _image(self) -> Medium:
        grid, px = self.sizes.page, self.config.vision.patch_size
        packed = self._drawn(grid.patches, 3 * px * px)
        size = torch.tensor([[grid.rows, grid.columns]], device=self.device)
        truth, theirs = (
            torch.cat(list(one.get_image_features(packed.to(one.dtype), size).pooler_output))
            for one in self._published()
        )
        return Medium("image", oracle.IMAGE, truth, theirs, self.ours.encode_images(packed.bfloat16(), [grid]))

    def _video(self) -> Medium:
        px = self.config.vision.patch_size
        frames = self._drawn(self.sizes.frames, 3, *self.sizes.frame.size_px(px))
        truth, theirs = (
            one.get_video_features(frames.to(one.dtype)).pooler_output.flatten(0, 1) for one in self._published()
        )
        ours = self.ours.encode_video(patches(tubelets(frames), px).bfloat16(), self.sizes.frame)
        return Medium("video", oracle.IMAGE, truth, theirs, ours.flatten(0, 1))

    def _sound(self) -> Medium:
        clips = [0.1 * torch.randn(int(16_000 * length), generator=self._noise) for length in self.sizes.seconds]
        mel = log_mel(clips).to(self.device)
        truth, theirs = (their_sound(one, mel) for one in self._published())
        return Medium("sound", oracle.SOUND, truth, theirs, self.ours.encode_sound(mel))

    def _published(self) -> tuple[Any, Any]:
        return self.truth, self.theirs

    def _drawn(self, *shape: int) -> Tensor:
        return torch.randn(shape, generator=self._noise).to(self.device)

    def answers(self, medium: Medium | None) -> tuple[Tensor, Tensor, Tensor]:
        """Logits behind a prompt cut in three, and behind each of `DECODES` tokens more: truth, theirs, ours."""
        count = 0 if medium is None else len(medium.ours)
        ids = self.text(self.sizes.text) if medium is None else [
            *self.text(7), *[medium.placeholder] * count, *self.text(DECODES + 9)
        ]  # fmt: skip
        rows = [] if medium is None else [-1] * 7 + list(range(count)) + [-1] * (DECODES + 9)
        tokens = len(ids)
        steps = Steps(
            self.ours, positions=tokens, media=None if medium is None else medium.ours, window=4,
            tokens=tokens, block=16, ring=4,
        )  # fmt: skip
        track = steps.track(ids, slot=3, media_rows=rows)
        prompt, ours, at = tokens - DECODES, [], []
        for count in (prompt // 3, prompt // 2, prompt - prompt // 3 - prompt // 2):
            ours.append(steps.step(prefills=[(track, count)])[0])
            at.append(track.computed - 1)
        for _ in range(DECODES):
            ours.append(steps.step(decodes=[track])[0])
            at.append(track.computed - 1)
        truth = oracle.answer(self.truth, ids, None if medium is None else medium.truth)[at]
        theirs = oracle.answer(self.theirs, ids, None if medium is None else medium.theirs)[at]
        return truth, theirs, torch.stack(ours)


def their_sound(model: Any, mel: Mel) -> Tensor:
    """Without the frame of padding that their count may keep (spec 4.3)."""
    mask = torch.arange(mel.frames.shape[1], device=mel.frames.device) < mel.counts[:, None]
    frames = mel.frames.to(model.dtype)
    hidden = model.audio_tower(input_features=frames, attention_mask=mask).last_hidden_state
    rows = [clip[: subsampled(valid)] for clip, valid in zip(model.embed_audio(hidden), mel.valid, strict=True)]
    return torch.cat(rows)


def off(x: Tensor, truth: Tensor) -> float:
    """‖x - truth‖ / ‖truth‖; NaN counts as infinite."""
    assert x.shape == truth.shape, (x.shape, truth.shape)
    x, truth = x.double(), truth.double()
    return float(((x - truth).norm() / truth.norm()).nan_to_num(nan=torch.inf))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", choices=SIZES, default="slice")
    parser.add_argument("--device", default="cuda")
    given = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    began = time.monotonic()
    models, bad = Slice(given.size, given.device), 0
    print(f"{given.size} on {given.device}, loaded in {time.monotonic() - began:.0f} s, torch {torch.__version__}")
    print(f"| {'what':16} | {'rows':>5} | {'ours':>9} | {'theirs':>9} | {'ratio':>5} |")

    def row(what: str, truth: Tensor, theirs: Tensor, ours: Tensor) -> None:
        nonlocal bad
        mine, yours = off(ours, truth), off(theirs, truth)
        bad += not mine <= TIMES * yours
        print(f"| {what:16} | {len(ours):5} | {mine:9.2e} | {yours:9.2e} | {mine / yours:5.2f} |", flush=True)

    row("text: logits", *models.answers(None))
    for medium in models.media():
        row(f"{medium.name}: features", medium.truth, medium.theirs, medium.ours)
        row(f"{medium.name}: logits", *models.answers(medium))
    return min(bad, 1)


if __name__ == "__main__":
    sys.exit(main())
