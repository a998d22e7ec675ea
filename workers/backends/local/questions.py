"""A unit's question as the engine takes it: messages, media, how the answer is drawn."""

import time

from workers import prompts
from workers.backends.asking.work import Question
from workers.engine.canonical import decoded
from workers.engine.compose import Ask
from workers.engine.messages import Medium, Message, Role
from workers.engine.request import MediaKind
from workers.engine.sampling import SamplingParams
from workers.engine.template import ChatOptions
from workers.inputs import CanonicalAudio, CanonicalClip, CanonicalPage

KINDS = {CanonicalAudio: MediaKind.SOUND, CanonicalClip: MediaKind.VIDEO, CanonicalPage: MediaKind.IMAGE}


def ask_of(question: Question, *, context: int, timeout_s: float) -> Ask:
    """
    Args:
        context: positions of one sequence; an answer gets half of them at most.
        timeout_s: from now on.
    """
    media, thinking_tokens = question.media, question.prompt.sampling.reasoning_tokens
    shown = () if media is None else (Medium(KINDS[type(media)], ""),)
    return Ask(
        id=question.unit_id,
        messages=[Message(Role.USER, question.prompt.text, shown)],
        media=() if media is None else (lambda: decoded(media),),
        sampling=sampling_of(question, most_tokens=context // 2),
        options=ChatOptions(enable_thinking=thinking_tokens > 0, reasoning_budget=thinking_tokens or None),
        deadline_s=time.monotonic() + timeout_s,
    )


def sampling_of(question: Question, *, most_tokens: int) -> SamplingParams:
    """The preset of the prompt; where the prompt has a shape, the grammar allows nothing else.

    Args:
        most_tokens: of answer and thoughts.
    """
    prompt, preset = question.prompt, question.prompt.sampling
    thinking_tokens = preset.reasoning_tokens + prompts.GRACE_TOKENS if preset.reasoning_tokens else 0
    return SamplingParams(
        temperature=preset.temperature,
        top_p=1.0 if preset.top_p is None else preset.top_p,
        top_k=preset.top_k or 0,
        seed=preset.seed or 0,
        max_tokens=min(question.most_tokens + thinking_tokens, most_tokens),
        thinking_budget=preset.reasoning_tokens or None,
        thinking_grace=prompts.GRACE_TOKENS if preset.reasoning_tokens else 0,
        json_schema=None if prompt.shape is None else prompts.schema_of(prompt.shape),
    )
