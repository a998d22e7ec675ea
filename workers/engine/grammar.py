"""Answers that are JSON of a schema: which tokens may come next, by llguidance.

`Grammars` compiles schemas and keeps them; `Constraint` follows one sequence. A constraint sleeps until `</think>`
when the prompt opened a thought. After it the line breaks are allowed that the model, or the end of its budget, writes
there.

Threads: `Grammars` may be used from several; a `Constraint` belongs to the engine's thread.

Source: llguidance 1.9, docs/json_schema.md; it refuses what it cannot guarantee.
"""

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from torch import Tensor

from workers.engine.schema import SchemaError, schema_text
from workers.engine.tokenizer import END_THINK, EOS, IM_END, Tokenizer

KEPT = 64  # compiled schemas
AFTER_THOUGHT = "start: BREAK? answer\nBREAK: /\\n{1,2}/\nanswer: %json "


class Grammars:
    """Compiled schemas of one vocabulary, the latest `KEPT` of them."""

    def __init__(self, tokenizer: Tokenizer, vocab_size: int | None = None) -> None:
        """
        Args:
            vocab_size: logits of the model, where they are more than the tokenizer has ids.
        """
        self.vocab_size = vocab_size or tokenizer.vocab_size
        self.stop_ids = (tokenizer.control(IM_END), tokenizer.control(EOS))
        self._ends_thought = tokenizer.control(END_THINK)
        self._tokens = LLTokenizer(
            _unspeakable(tokenizer),
            n_vocab=self.vocab_size,
            eos_token=list(self.stop_ids),
            slices=LLTokenizer.json_slices(),
        )
        self._compiled: OrderedDict[tuple[str, bool], LLMatcher] = OrderedDict()
        self._lock = threading.Lock()

    def constrain(self, schema: Mapping[str, Any], *, thinking: bool = False) -> "Constraint":
        """A constraint for one sequence.

        Args:
            schema: JSON schema of the answer.
            thinking: the prompt opened a thought, so JSON begins after `</think>`.

        Raises:
            SchemaError: it is too large, nests too deep, or uses what cannot be guaranteed.
        """
        key = (schema_text(schema), thinking)
        with self._lock:
            matcher = self._compiled.get(key) or self._compile(*key)
            self._compiled[key] = matcher
            self._compiled.move_to_end(key)
            if len(self._compiled) > KEPT:
                self._compiled.popitem(last=False)
            fresh = matcher.deep_copy()
        return Constraint(fresh, starts_after=self._ends_thought if thinking else None)

    def _compile(self, schema: str, thinking: bool) -> LLMatcher:
        if thinking:
            grammar = LLMatcher.grammar_from_lark(AFTER_THOUGHT + schema)
        else:
            grammar = LLMatcher.grammar_from_json_schema(schema)
        matcher = LLMatcher(self._tokens, grammar, log_level=0, limits=LLParserLimits(verbose_errors=False))
        if matcher.is_error():
            reason = matcher.get_error().strip().replace("\n", " ")
            raise SchemaError(f"json_schema: expected a schema that can be guaranteed, got one with: {reason[:300]}",
                              pointer="/json_schema", kind="unsupported")  # fmt: skip
        return matcher


class Constraint:
    """What one sequence may say next."""

    def __init__(self, matcher: LLMatcher, starts_after: int | None = None) -> None:
        """
        Args:
            starts_after: the id that wakes it; None is awake from the start.
        """
        self._matcher = matcher
        self._starts_after = starts_after
        self.active = starts_after is None
        """Whether the next token is constrained; before the end of the thought it is not."""

    @property
    def is_done(self) -> bool:
        """The answer is whole: nothing but a stop id may follow."""
        return self.active and self._matcher.is_stopped() and self.error is None

    @property
    def error(self) -> str | None:
        """Why the grammar gave up: a limit of llguidance was reached. Only a stop id may follow then."""
        return self._matcher.get_error()[:300] if self._matcher.is_error() else None

    def advance(self, id: int) -> bool:
        """Takes in a sampled id.

        Returns:
            False where the grammar does not allow it; nothing has changed then.
        """
        if not self.active:
            self.active = id == self._starts_after
            return True
        if self._matcher.is_stopped():
            return True  # a stop id after the end
        return self._matcher.try_consume_tokens([id]) > 0

    def fill(self, masks: Tensor, row: int) -> None:
        """Writes the mask of the next token into a row of [rows, ceil(vocab / 32)] int32 on the host."""
        if self.active:
            words = masks[row]
            self._matcher.unsafe_compute_mask_ptr(words.data_ptr(), words.numel() * words.element_size())
        else:
            masks[row].fill_(-1)


class MaskRows:
    """Host memory for the masks of a step, pinned where there is a GPU, and their tensor of fixed address there.

    A row is written by `Constraint.fill` once the masks of the step before have been used.
    """

    def __init__(self, rows: int, vocab_size: int, device: torch.device | str = "cpu") -> None:
        pinned = torch.device(device).type == "cuda"
        self.host = torch.full((rows, -(-vocab_size // 32)), -1, dtype=torch.int32, pin_memory=pinned)
        self._device = self.host.to(device, copy=True)

    def send(self, rows: int) -> Tensor:
        """The first `rows` rows on the device: [rows, ceil(vocab / 32)] int32; queued on the current stream."""
        self._device[:rows].copy_(self.host[:rows], non_blocking=True)
        return self._device[:rows]


def _unspeakable(tokenizer: Tokenizer) -> str:
    """The tokenizer.json with control tokens under names that no JSON can hold, for it has no U+0000.

    llguidance tokenises the text that a schema leaves no choice about, a key for example, and finds the names of
    control tokens in it: a key `</think>` would ask the model for the token.
    """
    raw = json.loads(tokenizer.source)
    ids = set(tokenizer.controls.values())
    for token in raw["added_tokens"]:
        token["content"] = f"\0{token['id']}\0"
    vocab = raw["model"]["vocab"]
    raw["model"]["vocab"] = {f"\0{id}\0" if id in ids else token: id for token, id in vocab.items()}
    return json.dumps(raw)
