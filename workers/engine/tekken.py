"""A tokenizer.json made of Tekken ranks and the model's control tokens, for checkpoints written here.

The published checkpoint brings its own file, which is to be preferred. This one has the same ids: 1,000 slots for
control tokens, then rank + 1000. `TINY` holds the first 280 ranks: the 256 bytes and 24 merges, 1,280 ids in all.

Source: spec 6.1 to 6.3. The names of the slots that nobody has seen are `<SPECIAL_n>`.
"""

import json
from collections.abc import Sequence
from typing import Any

from workers.engine.tokenizer import BYTE_LETTERS

SLOTS = 1000
PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
NAMED = {
    0: "<unk>", 1: "<s>", 2: "</s>", 10: "<|im_start|>", 11: "<|im_end|>", 12: "<think>", 13: "</think>",
    14: "<tool_call>", 15: "</tool_call>", 16: "<tool_response>", 17: "</tool_response>", 18: "<image>",
    21: "<img>", 22: "</img>", 27: "<so_embedding>", 28: "<so_start>", 29: "<so_end>",
}  # fmt: skip
TINY = [bytes([byte]) for byte in range(256)] + [
    b"  ", b" t", b"er", b"in", b"    ", b" a", b"en", b"on", b"es", b" s", b" d", b"\n\n",
    b"he", b"at", b"or", b"an", b" c", b"re", b" p", b"is", b"it", b"ar", b" the", b"al",
]  # fmt: skip


def control_tokens() -> list[str]:
    """Name of each slot."""
    return [NAMED.get(slot, f"<SPECIAL_{slot}>") for slot in range(SLOTS)]


def tokenizer_json(ranks: Sequence[bytes] = TINY) -> str:
    """Text of a tokenizer.json.

    Args:
        ranks: bytes of each token in order of rank; the first 256 are the bytes.
    """
    controls = control_tokens()
    vocab = {name: slot for slot, name in enumerate(controls)}
    vocab |= {_written(token): SLOTS + rank for rank, token in enumerate(ranks)}
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    split: dict[str, Any] = {"type": "Split", "pattern": {"Regex": PATTERN}, "behavior": "Isolated", "invert": False}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [{"id": slot, "content": name, **added} for slot, name in enumerate(controls)],
            "normalizer": None,
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, byte_level]},
            "post_processor": None,
            "decoder": byte_level,
            # Tekken takes a word that is a token whole, whatever its merges say.
            "model": {"type": "BPE", "ignore_merges": True, "vocab": vocab, "merges": _merges(ranks)},
        },
        ensure_ascii=False,
    )


def _merges(ranks: Sequence[bytes]) -> list[list[str]]:
    """Every pair of tokens that makes a token, by the rank of what it makes and then of its parts."""
    rank_of = {token: rank for rank, token in enumerate(ranks)}
    merges: list[list[str]] = []
    for token in ranks:
        halves = [(token[:at], token[at:]) for at in range(1, len(token))]
        pairs = [(left, right) for left, right in halves if left in rank_of and right in rank_of]
        pairs.sort(key=lambda pair: (rank_of[pair[0]], rank_of[pair[1]]))
        merges += [[_written(left), _written(right)] for left, right in pairs]
    return merges


def _written(token: bytes) -> str:
    return "".join(map(BYTE_LETTERS.__getitem__, token))
