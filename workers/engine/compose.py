"""A conversation with its media into one `Request`: sizes first, then features, then the prompt around them.

How large a picture is shown depends on all pictures of the prompt and on the text between them, so the prompt is
built twice: once to count what is not an image, once with the rows that every medium has.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from omni_jobs.errors import UsageError
from workers.engine.chat import Expansion, build_prompt
from workers.engine.config import OmniConfig
from workers.engine.features.grids import Grid, image_grids
from workers.engine.media import (
    Decoded,
    Image,
    Prepared,
    Sound,
    Video,
    media_of,
    prepare_image,
    prepare_sound,
    prepare_video,
)
from workers.engine.messages import Message
from workers.engine.request import Request
from workers.engine.sampling import SamplingParams
from workers.engine.template import ChatOptions
from workers.engine.tokenizer import END_IMAGE, Tokenizer
from workers.engine.tools import Tool


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What is asked, in messages.

    Attributes:
        media: give the media of the messages, in the order in which they are shown.
        pruning_rate: share of a video's rows to drop; None takes the checkpoint's.
    """

    id: str
    messages: Sequence[Message]
    sampling: SamplingParams
    media: Sequence[Callable[[], Decoded]] = ()
    tools: Sequence[Tool] = ()
    options: ChatOptions = field(default_factory=ChatOptions)
    pruning_rate: float | None = None
    logprobs: bool = False
    deadline_s: float | None = None


class Composer:
    """Any thread."""

    def __init__(self, config: OmniConfig, tokenizer: Tokenizer, context: int, *, pin: bool = False) -> None:
        """
        Args:
            context: positions that the engine grants one sequence.
            pin: as in `media_of`.
        """
        self._pin = pin
        self._config, self._tokenizer, self._context = config, tokenizer, context
        self._end_image = tokenizer.control(END_IMAGE)

    def compose(self, ask: Ask) -> Request:
        """Takes as long as decoding and features take.

        Raises:
            UsageError: messages, media or text that cannot be asked.
        """
        media = [load() for load in ask.media]
        rate = self._config.video_pruning_rate if ask.pruning_rate is None else ask.pruning_rate
        if not 0.0 <= rate < 1.0:
            raise UsageError(f"expected a pruning rate of at least 0 and below 1, got {rate}")
        prepared = [None if isinstance(one, Image) else self._prepare(one, rate) for one in media]
        grids = iter(self._grids(ask, media, prepared))
        every = [
            prepare_image(self._config, one, next(grids)) if isinstance(one, Image) else ready
            for one, ready in zip(media, prepared, strict=True)
        ]
        ready = [one for one in every if one is not None]
        prompt = build_prompt(self._tokenizer, ask.messages, [one.expansion for one in ready], ask.tools, ask.options)
        return Request(
            id=ask.id,
            prompt_ids=prompt.ids,
            sampling=ask.sampling,
            media=media_of(self._config, prompt, ready, self._end_image, pin=self._pin),
            thinking=prompt.thinking,
            logprobs=ask.logprobs,
            deadline_s=ask.deadline_s,
        )

    def _prepare(self, medium: Video | Sound, rate: float) -> Prepared:
        if isinstance(medium, Sound):
            return prepare_sound(self._config, medium)
        return prepare_video(self._config, medium, rate)

    def _grids(self, ask: Ask, media: Sequence[Decoded], prepared: Sequence[Prepared | None]) -> list[Grid]:
        """Of the images: as large as what the rest of the prompt and the answer leave."""
        sizes_px = [(one.pixels.shape[-2], one.pixels.shape[-1]) for one in media if isinstance(one, Image)]
        if not sizes_px:
            return []
        counted = [Expansion((1,)) if one is None else one.expansion for one in prepared]
        prompt = build_prompt(self._tokenizer, ask.messages, counted, ask.tools, ask.options)
        vision = self._config.vision
        try:
            return image_grids(
                sizes_px,
                # All but a row of each image: its marks take room as text does.
                text_tokens=len(prompt.ids) - len(sizes_px),
                context=self._context - ask.sampling.max_tokens,
                least=vision.min_num_patches,
                most=vision.max_num_patches,
                patch_px=vision.patch_size,
            )
        except ValueError as error:
            raise UsageError(str(error)) from error
