"""How an answer is drawn and where it ends; what the model card recommends, by task.

Source: the model card ("Model Parameters", "Best Practices", the client examples); generation_config.json.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from omni_jobs.errors import UsageError

STOP_IDS = (2, 11)  # </s> and <|im_end|>
MAX_TEMPERATURE = 100.0
MAX_TOKENS = 262_144  # the model's context
MAX_STOPS, MAX_STOP_CHARS = 16, 1024


def _number(name: str, value: Any, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value) or not low <= value <= high:
        raise _expected(name, f"a number from {low:g} to {high:g}", value)


def _whole(name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _expected(name, f"a whole number from {low} to {high}", value)


def _expected(name: str, what: str, got: Any) -> UsageError:
    return UsageError(f"{name}: expected {what}, got {repr(got)[:80]}", pointer=f"/{name}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """
    Attributes:
        temperature: 0 takes the most likely token.
        top_p: share of the probability that candidates come from.
        top_k: number of candidates; 0 is all.
        seed: with the position it decides every draw; any 64 bits.
        max_tokens: longest answer, thoughts included.
        stop_ids: tokens that end the answer and are no part of it.
        stop: texts that end the answer and are no part of it; looked for after the thoughts.
        thinking_budget: tokens of thought after which it is ended at the next line break; None never ends it.
        thinking_grace: tokens beyond the budget after which it is ended wherever it is.
        json_schema: the answer (after the thoughts) is JSON of this schema.

    Raises:
        UsageError: a value outside its range; `pointer` names the field.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    max_tokens: int = 1024
    stop_ids: tuple[int, ...] = STOP_IDS
    stop: tuple[str, ...] = ()
    thinking_budget: int | None = None
    thinking_grace: int = 0
    json_schema: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        _number("temperature", self.temperature, 0.0, MAX_TEMPERATURE)
        _number("top_p", self.top_p, 0.0, 1.0)
        if self.top_p == 0:
            raise _expected("top_p", "a number above 0 and at most 1", self.top_p)
        _whole("top_k", self.top_k, 0, 2**31 - 1)
        _whole("seed", self.seed, -(2**63), 2**64 - 1)
        _whole("max_tokens", self.max_tokens, 1, MAX_TOKENS)
        for id in self.stop_ids:
            _whole("stop_ids", id, 0, 2**31 - 1)
        if self.thinking_budget is not None:
            _whole("thinking_budget", self.thinking_budget, 0, MAX_TOKENS)
        _whole("thinking_grace", self.thinking_grace, 0, MAX_TOKENS)
        if len(self.stop) > MAX_STOPS:
            raise _expected("stop", f"at most {MAX_STOPS} texts", len(self.stop))
        for text in self.stop:
            if not isinstance(text, str) or not 1 <= len(text) <= MAX_STOP_CHARS:
                raise _expected("stop", f"texts of 1 to {MAX_STOP_CHARS} characters", text)
        if self.json_schema is not None and not isinstance(self.json_schema, Mapping):
            raise _expected("json_schema", "an object", self.json_schema)

    @property
    def greedy(self) -> bool:
        """Whether the most likely token is taken, whatever the seed."""
        return self.temperature == 0 or self.top_k == 1

    @property
    def seed_bits(self) -> int:
        """The 64 bits of the seed as a signed number, as an int64 tensor holds them."""
        return (self.seed + 2**63) % 2**64 - 2**63


class Task(StrEnum):
    """What the card has recommendations for."""

    REASONING = "reasoning"
    INSTRUCT = "instruct"
    SPEECH = "speech"
    PAGE = "page"
    VIDEO = "video"


@dataclass(frozen=True, slots=True)
class Preset:
    """
    Attributes:
        thinking: whether the prompt asks for thoughts.
        reasoning_budget: what the prompt tells the model of its budget.
    """

    params: SamplingParams
    thinking: bool = False
    reasoning_budget: int | None = None


_REASONING = SamplingParams(
    temperature=0.6, top_p=0.95, max_tokens=20_480, thinking_budget=16_384, thinking_grace=1024
)  # fmt: skip
PRESETS: Mapping[Task, Preset] = {
    Task.REASONING: Preset(_REASONING, thinking=True, reasoning_budget=16_384),
    Task.VIDEO: Preset(_REASONING, thinking=True, reasoning_budget=16_384),
    Task.INSTRUCT: Preset(SamplingParams(temperature=0.2, top_k=1, max_tokens=1024)),
    Task.SPEECH: Preset(SamplingParams(temperature=1.0, top_k=1, max_tokens=1024)),
    # The card's script for pages names no top_k; at 0.2 without one a page would be read differently by each seed.
    Task.PAGE: Preset(SamplingParams(temperature=0.2, top_k=1, max_tokens=32_000)),
}
