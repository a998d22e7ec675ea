"""A conversation with media into one request."""

from dataclasses import fields, replace

import pytest
import torch

from omni_jobs.errors import UsageError
from tests.workers.engine.tiny import make_ask, tiny_config, tokenizer
from workers.engine.compose import Composer
from workers.engine.media import Image, Sound, Video
from workers.engine.messages import Medium, Message, Role
from workers.engine.request import MediaKind, Request
from workers.engine.sequence import Sequence


def compose(*media, **options) -> Request:
    return Composer(tiny_config(), tokenizer(), context=options.pop("context", 240)).compose(
        make_ask("r", "What is it?", *media, **options)
    )


def picture(height: int, width: int) -> Image:
    return Image(torch.zeros(3, height, width, dtype=torch.uint8))


def test_every_row_has_its_placeholder_in_the_order_of_the_media() -> None:
    film = Video(torch.zeros(4, 3, 16, 16, dtype=torch.uint8), [0.0, 0.5, 1.0, 1.5], Sound(torch.zeros(3000)))
    request = compose(picture(16, 16), film, Sound(torch.zeros(8000)))
    assert [item.kind for item in request.media] == [
        MediaKind.IMAGE, MediaKind.VIDEO, MediaKind.SOUND, MediaKind.SOUND,
    ]  # fmt: skip
    sequence = Sequence(request)
    assert [len(item.at) for item in sequence.items] == [item.tokens for item in request.media]
    assert [item.placeholder for item in request.media] == [18, 18, 27, 27]


def test_the_text_of_a_pruned_video_moves_and_keeps_its_length() -> None:
    film = Video(torch.zeros(6, 3, 16, 16, dtype=torch.uint8), [0.0, 0.5, 1.0, 1.5, 2.0, 2.5])
    request = compose(film)
    [item] = request.media
    assert item.pruning is not None
    tubelets = len(item.pruning.before)
    as_written = item.pruning.layout([item.tokens] + [0] * (tubelets - 1), 18)
    at = slice(item.pruning.start, item.pruning.start + len(as_written))
    assert list(request.prompt_ids[at]) == as_written
    sequence = Sequence(request)
    sequence.layout(sequence.items[0], [4, 0, 2])
    assert len(sequence.tokens) == len(request.prompt_ids)
    text = tokenizer().decode(sequence.tokens)
    last = "Frame 5 sampled at 2.00 seconds and frame 6 sampled at 2.50 seconds: "
    assert f"1.50 seconds: <img></img>\n{last}<img><image><image></img>" in text
    assert tokenizer().decode(request.prompt_ids).replace("<image>", "") == text.replace("<image>", "")


def test_pictures_share_what_the_context_leaves() -> None:
    alone = compose(picture(64, 64), context=2000).media[0].tokens
    several = compose(*[picture(64, 64)] * 3, context=60).media
    assert alone == 16
    assert all(item.tokens < alone for item in several)
    assert len(compose(*[picture(64, 64)] * 3, context=60).prompt_ids) <= 60


def test_for_a_card_every_feature_is_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[int] = []

    def pin_memory(tensor: torch.Tensor) -> torch.Tensor:
        copy = tensor.clone()
        pinned.append(copy.data_ptr())
        return copy

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin_memory)
    film = Video(torch.zeros(4, 3, 16, 16, dtype=torch.uint8), None, Sound(torch.zeros(3000)))
    ask = make_ask("r", "x", picture(8, 8), film, Sound(torch.zeros(3000)))
    for pin in (False, True):
        request = Composer(tiny_config(), tokenizer(), 240, pin=pin).compose(ask)
        features = [part.features for item in request.media for part in item.parts]
        tensors = [one for each in features for one in vars_of(each) if isinstance(one, torch.Tensor)]
        assert len(tensors) == 2 + 2 * 2
        assert [one.data_ptr() for one in tensors] == pinned if pin else not pinned


def vars_of(features) -> list:
    return [getattr(features, one.name) for one in fields(features)]


def test_a_thought_that_the_prompt_opens_is_said() -> None:
    assert compose(thinking=True).thinking
    assert not compose(thinking=False).thinking


def test_a_rate_that_keeps_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="expected a pruning rate of at least 0 and below 1, got 1"):
        Composer(tiny_config(), tokenizer(), 240).compose(replace(make_ask("r", "x"), pruning_rate=1.0))


def test_many_pictures_leave_room_for_their_marks() -> None:
    request = compose(*[picture(32, 32)] * 13, context=277)
    assert len(request.prompt_ids) + request.sampling.max_tokens <= 277


@pytest.mark.parametrize(
    ("height", "width", "message"),
    [(10, 20_000, "expected sides that 64 patches can show, got 10 x 20000 pixels"), (0, 9, "at least 1 x 1 pixels")],
)
def test_a_picture_that_cannot_be_shown_is_refused_as_what_was_asked(height: int, width: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        compose(picture(height, width))


@pytest.mark.parametrize(
    ("kind", "medium", "got"),
    [(MediaKind.IMAGE, Sound(torch.zeros(3000)), "sound"), (MediaKind.SOUND, picture(8, 8), "image")],
)
def test_a_medium_of_another_kind_than_its_message_says_is_refused(kind: MediaKind, medium, got: str) -> None:
    ask = replace(make_ask("r", "x", medium), messages=[Message(Role.USER, "x", (Medium(kind, ""),))])
    with pytest.raises(UsageError, match=f"medium 0: expected {kind}, got {got}"):
        Composer(tiny_config(), tokenizer(), 240).compose(ask)
