"""Messages into the token ids of a prompt, with a placeholder for each embedding row of its media.

Tokens are those of the whole string tokenised at once, because text between two control tokens is tokenised as one.
An image or a recording is a run of placeholders between its marks; a video has a run for each tubelet, with its label
in front, and its sound track, where it is to be heard, right behind.

Source: spec 3.5 to 3.7, 4.3, 5.3.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from workers.engine.messages import ConversationError, Message
from workers.engine.request import MediaKind
from workers.engine.template import ChatOptions, Shown, script
from workers.engine.tokenizer import END_IMAGE, END_SOUND, IMAGE, SOUND, START_IMAGE, START_SOUND, Control, Tokenizer
from workers.engine.tools import Tool


@dataclass(frozen=True, slots=True)
class Expansion:
    """How many embedding rows a medium has, by run.

    Attributes:
        counts: one for an image or a recording, one a tubelet for a video.
        labels: text in front of each tubelet of a video.
        sound: rows of a video's sound track; 0 where it is not heard.
    """

    counts: tuple[int, ...]
    labels: tuple[str, ...] = ()
    sound: int = 0


@dataclass(frozen=True, slots=True)
class MediaSlot:
    """A run of placeholders.

    Attributes:
        position: of the first of them in the prompt.
        length: how many; 0 for a tubelet of which nothing stays.
        kind: whose embeddings; SOUND with the index of a video is its sound track.
        index: which medium of the conversation, in the order in which messages show them.
        first_row: which row of these embeddings stands at `position`.
    """

    position: int
    length: int
    kind: MediaKind
    index: int
    first_row: int = 0


@dataclass(frozen=True, slots=True)
class Prompt:
    """
    Attributes:
        ids: with a placeholder for each embedding row.
        slots: where the placeholders are, in order.
        thinking: the answer begins inside a thought.
    """

    ids: tuple[int, ...]
    slots: tuple[MediaSlot, ...] = ()
    thinking: bool = False

    def tubelet_heads(self, index: int) -> tuple[int, tuple[tuple[int, ...], ...]]:
        """What moves when the rows of a video are shared out anew among its tubelets.

        Returns:
            The position from which on ids move, and the ids in front of the rows of each tubelet; behind the rows of
            each stands `</img>`.
        """
        slots = [slot for slot in self.slots if slot.index == index and slot.kind is MediaKind.VIDEO]
        start = slots[0].position - 1
        starts = [start, *(slot.position + slot.length + 1 for slot in slots[:-1])]
        return start, tuple(self.ids[at : slot.position] for at, slot in zip(starts, slots, strict=True))


@dataclass(frozen=True, slots=True)
class _Run:
    """Placeholders of one kind in a row, and the pieces around them."""

    before: tuple[str, ...]
    placeholder: Control
    length: int
    after: Control
    kind: MediaKind
    first_row: int = 0


def build_prompt(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    expansions: Sequence[Expansion] = (),
    tools: Sequence[Tool] = (),
    options: ChatOptions = ChatOptions(),
) -> Prompt:
    """The prompt that asks for the assistant's next turn.

    Args:
        expansions: one for each medium of the messages, in order.

    Raises:
        ConversationError: expansions that do not fit the media.
        UsageError: text that UTF-8 cannot write.
    """
    shown = sum(len(message.media) for message in messages)
    if shown != len(expansions):
        raise ConversationError(f"expected the rows of {shown} media, got those of {len(expansions)}")
    ids: list[int] = []
    slots: list[MediaSlot] = []
    pieces: list[str] = []  # not yet tokenised
    for part in script(messages, tools, options):
        if isinstance(part, str):
            pieces.append(part)
            continue
        for run in _runs(part, expansions[part.index]):
            ids += tokenizer.encode_pieces([*pieces, *run.before])
            pieces = [run.after]
            slots.append(MediaSlot(len(ids), run.length, run.kind, part.index, run.first_row))
            ids += [tokenizer.control(run.placeholder)] * run.length
    ids += tokenizer.encode_pieces(pieces)
    return Prompt(tuple(ids), tuple(slots), options.enable_thinking)


def _runs(shown: Shown, rows: Expansion) -> Iterator[_Run]:
    _check(shown, rows)
    if shown.kind is MediaKind.IMAGE:
        yield _Run((START_IMAGE,), IMAGE, rows.counts[0], END_IMAGE, MediaKind.IMAGE)
    elif shown.kind is MediaKind.VIDEO:
        first_row = 0
        for nth, (label, count) in enumerate(zip(rows.labels, rows.counts, strict=True)):
            before = ("\n" if nth else "", label, START_IMAGE)
            yield _Run(before, IMAGE, count, END_IMAGE, MediaKind.VIDEO, first_row)
            first_row += count
    if sound := rows.counts[0] if shown.kind is MediaKind.SOUND else rows.sound:
        yield _Run((START_SOUND,), SOUND, sound, END_SOUND, MediaKind.SOUND)


def _check(shown: Shown, rows: Expansion) -> None:
    video = shown.kind is MediaKind.VIDEO
    got = f"{len(rows.counts)} runs of {sum(rows.counts)} rows, {len(rows.labels)} labels, {rows.sound} rows of sound"
    if not rows.counts or min(*rows.counts, rows.sound) < 0 or sum(rows.counts) < 1:
        raise ConversationError(f"medium {shown.index}: expected at least one row of {shown.kind}, got {got}")
    if len(rows.labels) != (len(rows.counts) if video else 0) or (not video and len(rows.counts) + rows.sound != 1):
        expected = "a label for each run" if video else "one run, no labels and no sound track"
        raise ConversationError(f"medium {shown.index}: expected {expected} for {shown.kind}, got {got}")
