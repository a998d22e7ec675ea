"""Text to token ids and back. Control tokens (`<|im_end|>`, `</think>`, `<image>`, ...) are no text.

A checkpoint's tokenizer.json finds its control tokens inside any text. Ours does not: `encode` runs on a copy whose
vocabulary has no control token left, so nothing a user writes can become one. Who means a control token says so, with
`control` or with `encode_prompt`. On the way back a control token is a `Control`, a str of its own type, so that
parsers tell `</think>` from the same eight characters written out.

Threads: everything is read-only after loading, a `Detokenizer` belongs to one sequence.

Source: spec section 6.
"""

import codecs
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Bpe

from omni_jobs.errors import UsageError
from workers.engine.sections import ConfigError, read_json


class Control(str):
    """The name of a control token."""

    __slots__ = ()


UNK, BOS, EOS = Control("<unk>"), Control("<s>"), Control("</s>")
IM_START, IM_END = Control("<|im_start|>"), Control("<|im_end|>")
THINK, END_THINK = Control("<think>"), Control("</think>")
TOOL_CALL, END_TOOL_CALL = Control("<tool_call>"), Control("</tool_call>")
IMAGE, START_IMAGE, END_IMAGE = Control("<image>"), Control("<img>"), Control("</img>")
SOUND, START_SOUND, END_SOUND = Control("<so_embedding>"), Control("<so_start>"), Control("<so_end>")

NEEDED = (EOS, IM_START, IM_END, THINK, END_THINK, TOOL_CALL, END_TOOL_CALL, IMAGE, START_IMAGE, END_IMAGE, SOUND,
          START_SOUND, END_SOUND)  # fmt: skip
# Each of them stands for a row of embeddings; a prompt written as text has none.
PLACEHOLDERS = (IMAGE, SOUND)

_PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
_OTHERS = iter(range(0x100, 0x200))
# How byte-level BPE writes a byte: as the character it is in Latin-1 if one can see it, else as the next from U+0100.
BYTE_LETTERS = [chr(byte if byte in _PRINTABLE else next(_OTHERS)) for byte in range(0x100)]


def naming(names: Iterable[str]) -> re.Pattern[str]:
    """What finds these control tokens by name, the longest first."""
    return re.compile("|".join(re.escape(name) for name in sorted(names, key=len, reverse=True)))


def cut(text: str, names: re.Pattern[str]) -> list[str]:
    """Text as pieces: what `names` finds is a `Control`, what is between stays text."""
    pieces: list[str] = []
    at = 0
    for match in names.finditer(text):
        pieces += [text[at : match.start()], Control(match[0])]
        at = match.end()
    return [*pieces, text[at:]]


class Tokenizer:
    """
    Attributes:
        controls: id of each control token by name.
        source: the text of tokenizer.json, for those who build their own tables of it (the grammar).
        vocab_size: one more than the largest id.
    """

    def __init__(self, source: str) -> None:
        """
        Args:
            source: text of a tokenizer.json.

        Raises:
            ConfigError: it is not byte-level BPE, or lacks a control token that the engine needs.
        """
        raw = _parsed(source)
        self.source = source
        self.controls: Mapping[str, int] = {token["content"]: token["id"] for token in raw["added_tokens"]}
        if missing := [name for name in NEEDED if name not in self.controls]:
            raise ConfigError(
                f"tokenizer.json: expected the control tokens {', '.join(missing)}, got none of that name"
            )
        self._bpe = _without_controls(raw, set(self.controls.values()))
        self._bytes = _table(self._bpe.get_vocab(with_added_tokens=False))
        self._names = {id: Control(name) for name, id in self.controls.items()}
        self._control = naming(self.controls)
        self.vocab_size = 1 + max(max(self._bytes), max(self._names))

    @classmethod
    def load(cls, directory: Path) -> "Tokenizer":
        """From a checkpoint directory.

        Raises:
            ConfigError: there is no tokenizer.json, or none that the engine can use.
        """
        path = directory / "tokenizer.json"
        read_json(path)  # size and syntax, with the path in the error
        return cls(path.read_text(encoding="utf-8"))

    def control(self, name: str) -> int:
        """Id of a control token; KeyError for a name that is none."""
        return self.controls[name]

    def is_control(self, id: int) -> bool:
        return id in self._names

    def encode(self, text: str) -> list[int]:
        """Ids of text as text: never a control token, whatever it says.

        Raises:
            UsageError: half a surrogate pair, which has no UTF-8.
        """
        try:
            text.encode()
        except UnicodeEncodeError as error:
            got = f"U+{ord(text[error.start]):04X} at {error.start}"
            raise UsageError(f"expected text that UTF-8 can write, got the lone surrogate {got}") from error
        return self._bpe.encode(text, add_special_tokens=False).ids

    def encode_pieces(self, pieces: Iterable[str]) -> list[int]:
        """Ids of text and control tokens. Text between two control tokens is tokenised as one, however it was cut.

        A `Control` that this tokenizer does not have is text.
        """
        ids: list[int] = []
        text: list[str] = []
        for piece in pieces:
            if isinstance(piece, Control) and piece in self.controls:
                ids += self.encode("".join(text))
                ids.append(self.controls[piece])
                text.clear()
            else:
                text.append(piece)
        return ids + self.encode("".join(text))

    def encode_prompt(self, text: str) -> list[int]:
        """Ids of a whole prompt that somebody else templated: control tokens in it are meant.

        Raises:
            UsageError: it names a placeholder; there are no embeddings for it.
        """
        pieces = cut(text, self._control)
        for piece in pieces:
            if isinstance(piece, Control) and piece in PLACEHOLDERS:
                raise UsageError(f"expected a prompt of text, got the placeholder {piece}: send media as a chat")
        return self.encode_pieces(pieces)

    def piece(self, id: int) -> bytes | Control:
        """What an id stands for: bytes of text (maybe half a character) or a control token; b"" for an unused id."""
        return self._names[id] if id in self._names else self._bytes.get(id, b"")

    def decode(self, ids: Iterable[int]) -> str:
        """Text of ids, control tokens by name; bytes that are no UTF-8 as U+FFFD."""
        stream = Detokenizer(self)
        return "".join([piece for id in ids for piece in stream.push(id)] + stream.finish())

    def ids_ending_with(self, suffix: bytes) -> frozenset[int]:
        return frozenset(id for id, text in self._bytes.items() if text.endswith(suffix))


class Detokenizer:
    """Ids in, pieces of text out as soon as they are whole characters."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, id: int) -> list[str]:
        """The pieces that `id` completes: text, `Control`s, or nothing yet."""
        piece = self._tokenizer.piece(id)
        if isinstance(piece, Control):
            return [*self.finish(), piece]
        text = self._utf8.decode(piece)
        return [text] if text else []

    def finish(self) -> list[str]:
        """What was held back: a character that never became whole, as U+FFFD."""
        text = self._utf8.decode(b"", final=True)
        return [text] if text else []


def _parsed(source: str) -> dict[str, Any]:
    try:
        raw = json.loads(source)
        kind = raw["model"]["type"]
        tokens = [(token["id"], token["content"]) for token in raw["added_tokens"]]
        vocab = raw["model"]["vocab"]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"tokenizer.json: expected model and added_tokens, got {error!r}") from error
    if kind != "BPE" or not isinstance(vocab, dict) or not tokens or raw.get("normalizer") is not None:
        raise ConfigError(f"tokenizer.json: expected byte-level BPE without normalizer, got {kind}")
    return raw


def _without_controls(raw: dict[str, Any], control_ids: set[int]) -> Bpe:
    model = dict(raw["model"])
    model["vocab"] = {token: id for token, id in model["vocab"].items() if id not in control_ids}
    # `<unk>` is a control token too; every byte has an id, so nothing is ever unknown.
    model["unk_token"] = None
    try:
        return Bpe.from_str(json.dumps({**raw, "added_tokens": [], "post_processor": None, "model": model}))
    except Exception as error:  # the library raises bare Exception
        raise ConfigError(f"tokenizer.json: expected byte-level BPE, got what cannot be built: {error}") from error


def _table(vocab: Mapping[str, int]) -> dict[int, bytes]:
    """Bytes of each id."""
    byte_of = {letter: byte for byte, letter in enumerate(BYTE_LETTERS)}
    try:
        table = {id: bytes(byte_of[char] for char in token) for token, id in vocab.items()}
    except KeyError as error:
        raise ConfigError(f"tokenizer.json: expected tokens of byte-level BPE, got the character {error}") from error
    if missing := 0x100 - len({text for text in table.values() if len(text) == 1}):
        raise ConfigError(f"tokenizer.json: expected a token for each of 256 bytes, got none for {missing}")
    return table
