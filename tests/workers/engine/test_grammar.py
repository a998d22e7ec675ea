"""Constrained JSON: whatever the logits say, the answer is of its schema."""

import json
import time
from typing import Any

import jsonschema_rs
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.workers.engine.no_sync import NoSync
from workers.engine.grammar import Constraint, Grammars, MaskRows
from workers.engine.sampler import SamplerRows, sample
from workers.engine.sampling import SamplingParams
from workers.engine.schema import MAX_CHARS, SchemaError
from workers.engine.tekken import tokenizer_json
from workers.engine.thinking import Thinking, ThinkingRules
from workers.engine.tokenizer import Tokenizer

TOKENIZER = Tokenizer(tokenizer_json())
GRAMMARS = Grammars(TOKENIZER)
RULES = ThinkingRules(TOKENIZER)
VOCAB = 1280
STOPS = {2, 11}
END_THINK, IM_END = 13, 11
POINT = {
    "type": "object",
    "properties": {"x": {"type": "integer"}, "y": {"type": "integer"}},
    "required": ["x"],
    "additionalProperties": False,
}


def allowed(constraint: Constraint) -> set[int]:
    rows = MaskRows(1, VOCAB)
    constraint.fill(rows.host, 0)
    words = rows.send(1)[0].tolist()
    return {id for id in range(VOCAB) if words[id // 32] >> (id % 32) & 1}


def feed(constraint: Constraint, text: str) -> None:
    for id in TOKENIZER.encode(text):
        assert constraint.advance(id), f"{TOKENIZER.piece(id)!r} of {text!r}"


# --- every answer is of its schema ------------------------------------------------------------------------------

KEYS = st.sampled_from(["a", "bé", "c d", "</think>"])
LEAVES = st.one_of(
    st.just({"type": "null"}),
    st.just({"type": "boolean"}),
    st.integers(-20, 20).flatmap(
        lambda low: st.integers(low, low + 40).map(lambda high: {"type": "integer", "minimum": low, "maximum": high})
    ),
    st.just({"type": "number", "minimum": 0, "maximum": 1}),
    st.integers(0, 5).map(lambda most: {"type": "string", "maxLength": most}),
    st.just({"type": "string", "pattern": "^[A-Z]{2}-[0-9]{1,3}$"}),
    st.just({"type": "string", "format": "date"}),
    st.lists(st.sampled_from(["é", "<|im_end|>", 'q"', 3, None, [1], {"k": 1}]), min_size=1, max_size=3).map(
        lambda values: {"enum": values}
    ),
)


def compound(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    objects = st.dictionaries(KEYS, inner, max_size=3).flatmap(
        lambda fields: st.lists(st.sampled_from(sorted(fields) or ["a"]), unique=True, max_size=len(fields)).map(
            lambda required: {"type": "object", "properties": fields, "required": required if fields else [],
                              "additionalProperties": False}
        )
    )  # fmt: skip
    arrays = st.tuples(inner, st.integers(0, 2), st.integers(0, 2)).map(
        lambda parts: {"type": "array", "items": parts[0], "minItems": parts[1], "maxItems": parts[1] + parts[2]}
    )
    return objects | arrays | st.lists(inner, min_size=1, max_size=2).map(lambda several: {"anyOf": several})


SCHEMAS = st.recursive(LEAVES, compound, max_leaves=5)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(SCHEMAS, st.booleans(), st.integers(0, 999))
def test_whatever_the_logits_say_the_answer_is_of_its_schema(schema: Any, thinking: bool, seed: int) -> None:
    """Noise logits, the real sampler, ids read a step late; a budget ends the thought."""
    constraint = GRAMMARS.constrain(schema, thinking=thinking)
    thought = Thinking(RULES, thinking=thinking, budget=3)
    rows, masks = SamplerRows(1), MaskRows(1, VOCAB)
    generator = torch.Generator().manual_seed(seed)
    ids: list[int] = []
    while not constraint.is_done and not (ids and ids[-1] in STOPS):
        assert len(ids) < 1000, TOKENIZER.decode(ids)
        logits = torch.randn(1, VOCAB, generator=generator) * 3
        if not constraint.active:
            logits[:, :1000] = -torch.inf  # the thought neither stops nor ends by itself
        constraint.fill(masks.host, 0)
        rows.put(0, SamplingParams(seed=seed), len(ids), forced_id=thought.forced_id, mask_row=0)
        id = int(sample(logits, rows.send(1, masks.send(1)))[0])
        thought.advance([id])
        assert constraint.advance(id)
        ids.append(id)
    said = [id for id in ids if id not in STOPS]
    answer = TOKENIZER.decode(said[said.index(END_THINK) + 1 :] if thinking else said)
    jsonschema_rs.validate(schema, json.loads(answer))
    assert not any(TOKENIZER.is_control(id) for id in said if id != END_THINK)


@pytest.mark.parametrize(
    "name", ["</think>", "<|im_end|>", "<image>", "</s>", "a<think>b", "\0" + "13\0", "<SPECIAL_20>"]
)
@pytest.mark.parametrize("thinking", [True, False])
def test_a_schema_cannot_ask_for_control_tokens(name: str, thinking: bool) -> None:
    schema = {
        "type": "object",
        "properties": {name: {"const": name}},
        "required": [name],
        "additionalProperties": False,
    }
    constraint = GRAMMARS.constrain(schema, thinking=thinking)
    constraint.advance(END_THINK) if thinking else None
    ids: list[int] = []
    while not constraint.is_done:
        assert not any(TOKENIZER.is_control(id) for id in allowed(constraint))
        ids.append(max(allowed(constraint), key=lambda id: (id in (1000 + ord("{"), 1000 + ord('"')), id)))
        assert constraint.advance(ids[-1])
    assert json.loads(TOKENIZER.decode(ids)) == {name: name}


# --- when it starts and ends ------------------------------------------------------------------------------------


def test_json_begins_after_the_thought() -> None:
    constraint = GRAMMARS.constrain(POINT, thinking=True)
    assert not constraint.active
    assert len(allowed(constraint)) == VOCAB
    feed(constraint, 'a thought with "quotes" and </think> in letters')
    assert not constraint.active
    assert constraint.advance(END_THINK)
    assert constraint.active
    assert {TOKENIZER.piece(id) for id in allowed(constraint)} == {b"{", b"\n", b"\n\n"}
    feed(constraint, '\n\n{"x": 1}')
    assert constraint.is_done


def test_without_a_thought_json_begins_at_once() -> None:
    constraint = GRAMMARS.constrain(POINT)
    assert constraint.active
    assert {TOKENIZER.piece(id) for id in allowed(constraint)} == {b"{"}


def test_what_ends_a_thought_by_force_fits_the_grammar() -> None:
    constraint = GRAMMARS.constrain(POINT, thinking=True)
    assert all(constraint.advance(id) for id in RULES.closing)
    feed(constraint, '{"x":2}')
    assert constraint.is_done


def test_only_a_stop_may_follow_a_whole_answer() -> None:
    constraint = GRAMMARS.constrain(POINT)
    feed(constraint, '{"x": 1')
    assert not constraint.is_done
    feed(constraint, "}")
    assert constraint.is_done
    assert allowed(constraint) == STOPS
    assert constraint.advance(1097)  # nothing is left that could refuse it
    assert constraint.is_done
    assert allowed(constraint) == STOPS


def test_a_number_ends_where_the_model_stops() -> None:
    constraint = GRAMMARS.constrain({"type": "integer", "minimum": 0})
    feed(constraint, "12")
    assert not constraint.is_done
    assert allowed(constraint) > STOPS
    assert constraint.advance(IM_END)
    assert constraint.is_done


def test_what_is_not_allowed_changes_nothing() -> None:
    constraint = GRAMMARS.constrain(POINT)
    feed(constraint, '{"')
    before = allowed(constraint)
    assert not constraint.advance(1000 + ord("z"))
    assert not constraint.advance(IM_END)
    assert constraint.error is None
    assert allowed(constraint) == before
    feed(constraint, 'x": 1}')


@pytest.mark.parametrize("text", ['{"x": 1, "y": 2}', '{\n  "x": 1,\n  "y": 2\n}', '{"x":1,"y":2}'])
@pytest.mark.parametrize("thinking", [True, False])
def test_json_may_be_written_on_one_line_or_indented(text: str, thinking: bool) -> None:
    constraint = GRAMMARS.constrain(POINT, thinking=thinking)
    constraint.advance(END_THINK) if thinking else None
    feed(constraint, text)
    assert constraint.is_done


@pytest.mark.parametrize("thinking", [True, False])
def test_blanks_do_not_go_on_for_ever(thinking: bool) -> None:
    constraint = GRAMMARS.constrain(POINT, thinking=thinking)
    constraint.advance(END_THINK) if thinking else None
    feed(constraint, "{")
    blanks = 0
    while blank := [id for id in allowed(constraint) if not TOKENIZER.decode([id]).strip()]:
        constraint.advance(blank[0])
        blanks += 1
        assert blanks < 50


# --- masks ------------------------------------------------------------------------------------------------------


def test_rows_are_those_of_their_sequences_and_wait_for_nothing() -> None:
    one, two, asleep = GRAMMARS.constrain(POINT), GRAMMARS.constrain(POINT), GRAMMARS.constrain(POINT, thinking=True)
    feed(two, '{"x": 1')
    rows = MaskRows(4, VOCAB)
    with NoSync():
        for row, constraint in enumerate([two, asleep, one]):
            constraint.fill(rows.host, row)
        sent = rows.send(3)
    assert sent.shape == (3, 40)
    alone = MaskRows(1, VOCAB)
    for row, constraint in enumerate([two, asleep, one]):
        constraint.fill(alone.host, 0)
        assert sent[row].tolist() == alone.send(1)[0].tolist()
    assert set(sent[1].tolist()) == {-1}


def test_a_vocabulary_larger_than_the_tokenizers_is_never_allowed_beyond_it() -> None:
    constraint = Grammars(TOKENIZER, 1312).constrain({"type": "string"})
    rows = MaskRows(1, 1312)
    constraint.advance(1000 + ord('"'))
    constraint.fill(rows.host, 0)
    assert rows.send(1)[0, 40:].tolist() == [0]


# --- schemas from outside ---------------------------------------------------------------------------------------

DEEP: Any = {"type": "integer"}
for _ in range(3000):
    DEEP = {"type": "array", "items": DEEP}


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"type": "strin"}, "strin"),
        ({"not": {"type": "null"}}, "not"),
        ({"type": "string", "pattern": "(?=a)b"}, "look-around"),
        ({"type": "string", "format": "bogus"}, "bogus"),
        ({"$ref": "https://example.com/schema.json"}, "example.com"),
        ({"$ref": "#/$defs/nobody"}, "nobody"),
        ({"enum": []}, "Unsatisfiable"),
        ({"type": "string", "minLength": 5, "maxLength": 2}, "minLength"),
        ({"type": "object", "x-guidance": {"lenient": True}}, "x-guidance"),
        ({"enum": ["x" * MAX_CHARS]}, "at most 65536 characters"),
        (DEEP, "at most 64 levels"),
        ({"enum": [float("nan")]}, "expected JSON"),
        ({"enum": [{1, 2}]}, "expected JSON"),
        ([], "expected an object, got list"),
    ],
)
@pytest.mark.parametrize("thinking", [True, False])
def test_a_schema_that_cannot_be_guaranteed_is_refused_soon(schema: Any, why: str, thinking: bool) -> None:
    begun = time.process_time()
    with pytest.raises(SchemaError, match=r"^json_schema: expected ") as caught:
        GRAMMARS.constrain(schema, thinking=thinking)
    assert why in str(caught.value)
    assert len(str(caught.value)) < 400
    assert str(caught.value.pointer).startswith("/json_schema")
    assert time.process_time() - begun < 2


def test_a_schema_is_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    grammars = Grammars(TOKENIZER)
    compiled: list[str] = []
    compile_ = grammars._compile
    monkeypatch.setattr(grammars, "_compile", lambda *key: compiled.append(key[0]) or compile_(*key))
    first, second = grammars.constrain(POINT), grammars.constrain(dict(POINT))
    feed(first, '{"x"')
    assert {TOKENIZER.piece(id) for id in allowed(second)} == {b"{"}
    grammars.constrain(POINT, thinking=True)
    assert len(compiled) == 2
    for size in range(70):
        grammars.constrain({"type": "string", "maxLength": size})
    assert len(grammars._compiled) == 64
    grammars.constrain(POINT)
    assert len(compiled) == 73


def test_a_grammar_that_outgrows_its_limits_says_so_and_allows_only_a_stop() -> None:
    constraint = GRAMMARS.constrain({"type": "string", "pattern": "(([ab]{1,300}c?){1,300}d?){1,300}"})
    begun = time.process_time()
    for id in TOKENIZER.encode('"' + "ab" * 60):
        allowed(constraint)
        constraint.advance(id)
    assert "too many" in str(constraint.error)
    assert not constraint.is_done
    assert allowed(constraint) == STOPS
    assert time.process_time() - begun < 2
