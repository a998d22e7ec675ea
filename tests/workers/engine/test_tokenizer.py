"""Text to ids and back; text never becomes a control token."""

import base64
import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from omni_jobs.errors import UsageError
from workers.engine.sections import ConfigError
from workers.engine.tekken import NAMED, TINY, control_tokens, tokenizer_json
from workers.engine.tokenizer import END_THINK, IM_END, Control, Detokenizer, Tokenizer, cut, naming

SOURCE = tokenizer_json()
TOKENIZER = Tokenizer(SOURCE)
NAMES = control_tokens()

# --- nothing a user writes is a control token -------------------------------------------------------------------

LOOKALIKES = [
    "＜think＞",
    "<\u200bthink>",
    "<think\u0000>",
    "<thınk>",
    "‹think›",
    "<|im_end\u200d|>",
    "&lt;think&gt;",
    "<THINK>",
]
BROKEN = st.sampled_from(NAMES).flatmap(lambda name: st.integers(0, len(name)).map(lambda at: name[:at]))
NESTED = st.tuples(st.sampled_from(NAMES), st.sampled_from(NAMES), st.integers(0, 12)).map(
    lambda pair: pair[0][: pair[2]] + pair[1] + pair[0][pair[2] :]
)
HOSTILE = st.lists(
    st.sampled_from(NAMES) | BROKEN | NESTED | st.sampled_from([*LOOKALIKES, " ", "\n", "\t"]) | st.text(max_size=5),
    max_size=8,
).map("".join)


@settings(max_examples=150, deadline=None)
@given(HOSTILE)
def test_text_never_becomes_a_control_token(text: str) -> None:
    ids = TOKENIZER.encode(text)
    assert not [id for id in ids if TOKENIZER.is_control(id)]
    assert TOKENIZER.decode(ids) == text


@pytest.mark.parametrize("around", ["{}", " {} ", "\n{}\n", "a{}b", "{}{}", "<{}>"])
def test_no_control_token_can_be_written_out(around: str) -> None:
    for name in NAMES:
        text = around.replace("{}", name)
        ids = TOKENIZER.encode(text)
        assert min(ids) >= 1000
        assert TOKENIZER.decode(ids) == text


def test_the_vocabulary_that_reads_text_has_no_control_token() -> None:
    vocab = TOKENIZER._bpe.get_vocab(with_added_tokens=True)
    assert not set(vocab.values()) & set(TOKENIZER.controls.values())
    assert not set(vocab) & set(NAMES)


def test_a_control_token_is_one_even_where_the_file_calls_it_ordinary() -> None:
    raw = json.loads(SOURCE)
    raw["added_tokens"][12] |= {"special": False, "normalized": True, "lstrip": True}
    tokenizer = Tokenizer(json.dumps(raw))
    assert 12 not in tokenizer.encode("a <think> b")
    assert tokenizer.encode_prompt("a <think> b").count(12) == 1


@pytest.mark.parametrize("text", ["\ud800", "ok \udfff", "\udc80<think>"])
def test_half_a_surrogate_pair_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="lone surrogate U\\+D"):
        TOKENIZER.encode(text)


# --- who means a control token says so --------------------------------------------------------------------------


def test_pieces_are_tokenised_as_one_text_between_control_tokens() -> None:
    assert TOKENIZER.encode_pieces(["a\n", "\nb", IM_END, "\n", "", "\n"]) == [
        *TOKENIZER.encode("a\n\nb"), 11, *TOKENIZER.encode("\n\n")]  # fmt: skip
    assert TOKENIZER.encode("a\n") + TOKENIZER.encode("\nb") != TOKENIZER.encode("a\n\nb")
    assert TOKENIZER.encode_pieces(["<think>", END_THINK]) == [*TOKENIZER.encode("<think>"), 13]
    assert TOKENIZER.encode_pieces([Control("<nobody>")]) == TOKENIZER.encode("<nobody>")


@settings(max_examples=100, deadline=None)
@given(HOSTILE)
def test_a_templated_prompt_is_tokenised_as_the_file_says(text: str) -> None:
    from tokenizers import Tokenizer as Published

    if "<image>" in text or "<so_embedding>" in text:
        with pytest.raises(UsageError, match="got the placeholder <"):
            TOKENIZER.encode_prompt(text)
        return
    assert TOKENIZER.encode_prompt(text) == Published.from_str(SOURCE).encode(text, add_special_tokens=False).ids


@pytest.mark.parametrize("name", ["<image>", "<so_embedding>"])
def test_a_prompt_of_text_has_no_placeholders(name: str) -> None:
    with pytest.raises(UsageError, match=f"got the placeholder {name}"):
        TOKENIZER.encode_prompt(f"<|im_start|>user\n{name}")
    assert len(TOKENIZER.encode_prompt("<img></img>")) == 2


def test_of_two_names_that_begin_alike_the_longer_is_found() -> None:
    assert cut("a<b><b>>", naming(["<b>", "<b>>"])) == ["a", "<b>", "", "<b>>", ""]


# --- back to text -----------------------------------------------------------------------------------------------

IDS = st.lists(st.integers(0, 1279) | st.integers(1128, 1255), max_size=40)


@settings(max_examples=150, deadline=None)
@given(IDS)
@example([1000 + byte for byte in "aé€😀".encode()])
@example([1240, 11, 1159])
def test_a_stream_gives_whole_characters_and_the_same_text(ids: list[int]) -> None:
    stream = Detokenizer(TOKENIZER)
    pieces = [stream.push(id) for id in ids]
    given_ = [piece for step in [*pieces, stream.finish()] for piece in step]
    raw, expected = b"", ""
    for id in [*ids, None]:
        part = None if id is None else TOKENIZER.piece(id)
        if part is None or isinstance(part, Control):
            expected += raw.decode("utf-8", "replace") + (part or "")
            raw = b""
        else:
            raw += part
    assert "".join(given_) == expected == TOKENIZER.decode(ids)
    assert all(given_)
    assert [piece for piece in given_ if isinstance(piece, Control)] == [NAMES[id] for id in ids if id < 1000]


@given(st.text(max_size=20))
def test_no_step_of_a_stream_holds_half_a_character(text: str) -> None:
    stream = Detokenizer(TOKENIZER)
    steps = ["".join(stream.push(1000 + byte)) for byte in text.encode()]
    assert "".join(steps) == text
    assert not stream.finish()
    assert all(len(step) <= 1 for step in steps)


def test_a_control_token_is_told_from_its_letters() -> None:
    stream = Detokenizer(TOKENIZER)
    written = [piece for id in TOKENIZER.encode("</think>") for piece in stream.push(id)]
    assert "".join(written) == "</think>" == stream.push(13)[0]
    assert not any(isinstance(piece, Control) for piece in written)
    assert isinstance(stream.push(13)[0], Control)


def test_ids_that_end_a_line_are_found() -> None:
    assert TOKENIZER.ids_ending_with(b"\n") == {1010, 1267}
    assert {TOKENIZER.piece(id) for id in TOKENIZER.ids_ending_with(b"e")} == {b"e", b"he", b"re", b" the"}


# --- files ------------------------------------------------------------------------------------------------------


def test_a_file_without_what_the_engine_needs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer.json: cannot be read"):
        Tokenizer.load(tmp_path)
    raw = json.loads(SOURCE)

    def refused(why: str, **changes: Any) -> None:
        (tmp_path / "tokenizer.json").write_text(json.dumps({**raw, **changes}))
        with pytest.raises(ConfigError, match=why):
            Tokenizer.load(tmp_path)

    refused("expected the control tokens </think>, <so_end>"[:24], added_tokens=[
        token for token in raw["added_tokens"] if token["content"] not in ("</think>", "<so_end>")])  # fmt: skip
    refused("got WordPiece", model={**raw["model"], "type": "WordPiece"})
    refused("without normalizer", normalizer={"type": "NFC"})
    refused("expected model and added_tokens", model=None)
    short = {token: id for token, id in raw["model"]["vocab"].items() if id != 1065}
    refused("got none for 1", model={**raw["model"], "vocab": short, "merges": []})
    odd = {**raw["model"]["vocab"], "日": 1300}
    refused("got the character '日'", model={**raw["model"], "vocab": odd})
    (tmp_path / "tokenizer.json").write_text(SOURCE)
    assert Tokenizer.load(tmp_path).vocab_size == 1280


def test_the_tiny_one_has_the_published_ids() -> None:
    assert TOKENIZER.vocab_size == 1280
    assert {id: TOKENIZER.piece(id) for id in NAMED} == NAMED
    assert TOKENIZER.piece(25) == "<SPECIAL_25>"
    assert [TOKENIZER.piece(1000 + rank) for rank in range(280)] == TINY
    assert TOKENIZER.encode("\n") == [1010]
    assert TOKENIZER.encode(" the\n\n") == [1278, 1267]
    assert TOKENIZER.piece(5000) == b""


def test_merges_stand_by_what_they_make_and_then_by_their_parts() -> None:
    ranks = [*TINY[:256], b"bc", b"ab", b"abc"]
    assert json.loads(tokenizer_json(ranks))["model"]["merges"] == [["b", "c"], ["a", "b"], ["a", "bc"], ["ab", "c"]]


@pytest.fixture(scope="module")
def whole() -> Tokenizer:
    """Of the checkpoint at OMNI_MODEL, else of the ranks in the package mistral_common."""
    if model := os.environ.get("OMNI_MODEL"):
        return Tokenizer.load(Path(model))
    package = find_spec("mistral_common")
    if package is None or package.origin is None:
        pytest.skip("neither OMNI_MODEL nor mistral_common has the ranks")
    vocab = json.loads((Path(package.origin).parent / "data" / "tekken_240718.json").read_bytes())["vocab"]
    return Tokenizer(tokenizer_json([base64.b64decode(token["token_bytes"]) for token in vocab[:130_072]]))


def test_the_whole_one_has_the_published_ids(whole: Tokenizer) -> None:
    assert whole.vocab_size == 131_072
    assert whole.encode(" Paris") == [6993]
    assert whole.encode("<video>\n") == [1060, 24073, 1561]
    assert whole.encode("<video>") == [1060, 24073, 1062]
    assert len(whole.ids_ending_with(b"\n")) == 1003
    assert len(json.loads(whole.source)["model"]["merges"]) == 269_443
    assert not any(whole.is_control(id) for name in whole.controls for id in whole.encode(name))
