"""Media into parts for the encoders: as many rows as the prompt has placeholders, in parts that a step can carry."""

import pytest
import torch

from omni_jobs.errors import UsageError
from tests.workers.engine.tiny import tiny_config, tiny_model
from workers.engine import media
from workers.engine.checkpoint import configs
from workers.engine.config import OmniConfig
from workers.engine.embeddings import Embeddings, Look
from workers.engine.features.grids import Grid
from workers.engine.media import Image, Sound, Video, prepare_image, prepare_sound, prepare_video
from workers.engine.memory.reservation import Reservation
from workers.engine.plan import Pass
from workers.engine.request import Media, MediaKind, Request
from workers.engine.sampling import SamplingParams
from workers.engine.sequence import Sequence

PUBLISHED = OmniConfig.from_dict(configs.reference())


def pixels(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(3), dtype=torch.uint8)


def test_a_clip_is_cut_into_parts_that_a_step_can_carry() -> None:
    prepared = prepare_video(PUBLISHED, Video(torch.zeros(255, 3, 8, 8, dtype=torch.uint8)), 0.5)
    parts = prepared.parts[MediaKind.VIDEO]
    assert sum(part.rows for part in parts) == 128 * 256
    assert max(part.flop for part in parts) <= media.PART_FLOP
    assert {len(part.features.pixels) % 2 for part in parts[:-1]} == {0}
    assert prepared.expansion.counts == (16384, *[0] * 127)
    assert len(prepared.expansion.labels) == 128


def test_without_pruning_every_tubelet_keeps_its_rows() -> None:
    prepared = prepare_video(tiny_config(), Video(pixels(5, 3, 16, 16)), 0.0)
    assert prepared.expansion.counts == (4, 4, 4)


def test_sound_is_cut_into_windows_of_half_a_minute() -> None:
    prepared = prepare_sound(PUBLISHED, Sound(torch.zeros(16_000 * 300)))
    assert prepared.expansion.counts == (3750,)
    assert sum(part.rows for part in prepared.parts[MediaKind.SOUND]) == 3750
    assert max(part.flop for part in prepared.parts[MediaKind.SOUND]) <= media.PART_FLOP


@pytest.mark.parametrize("frames", [1, 2, 5])
def test_a_pass_makes_as_many_rows_as_were_counted(frames: int) -> None:
    config = tiny_config()
    image = prepare_image(config, Image(pixels(3, 9, 30)), Grid(4, 10))
    video = prepare_video(config, Video(pixels(frames, 3, 20, 30)), 0.0)
    sound = prepare_sound(config, Sound(torch.rand(9000)))
    for kind, prepared in ((MediaKind.IMAGE, image), (MediaKind.VIDEO, video), (MediaKind.SOUND, sound)):
        pool = run(Media(kind, 18, prepared.parts[kind], sum(prepared.expansion.counts)))
        assert not pool.isnan().any()


def test_parts_of_a_video_make_the_rows_that_the_whole_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    film = Video(pixels(7, 3, 20, 30))
    whole = prepare_video(tiny_config(), film, 0.0)
    monkeypatch.setattr(media, "PART_FLOP", 1)
    cut = prepare_video(tiny_config(), film, 0.0)
    assert [len(one.parts[MediaKind.VIDEO]) for one in (whole, cut)] == [1, 4]
    rows = [
        run(Media(MediaKind.VIDEO, 18, one.parts[MediaKind.VIDEO], sum(one.expansion.counts))) for one in (whole, cut)
    ]
    torch.testing.assert_close(*rows, rtol=0, atol=1e-5)


def run(item: Media) -> torch.Tensor:
    """Every pass of an item, into a pool of just its size."""
    config = tiny_config()
    pool = torch.full((item.rows, config.text.hidden_size), torch.nan)
    embeddings = Embeddings(tiny_model(), pool, page_size=1, look=Look.of(config))
    sequence = Sequence(Request("r", (1, *[18] * item.tokens), SamplingParams(), (item,)))
    sequence.held = Reservation([], 1, [list(range(item.rows))])
    with torch.no_grad():
        for part in range(len(item.parts)):
            embeddings.run(Pass(sequence, sequence.items[0], part))
    return pool


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (
            lambda: prepare_image(tiny_config(), Image(torch.zeros(3, 8, 8)), Grid(2, 2)),
            r"expected \[3, height, width\]",
        ),
        (lambda: prepare_video(tiny_config(), Video(pixels(3, 8, 8)), 0.0), r"expected \[frames, 3, height, width\]"),
        (
            lambda: prepare_sound(tiny_config(), Sound(torch.zeros(2, 800))),
            r"expected \[L\] float samples, got \[2, 800\]",
        ),
    ],
)
def test_other_shapes_are_refused(prepare, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        prepare()
