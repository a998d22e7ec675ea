import pytest
import torch

from workers.engine.batch import LAST_SAMPLED, TEXT, Batch, Piece


def batch(tokens: int = 32, sequences: int = 6, blocks: int = 4) -> Batch:
    return Batch(tokens=tokens, sequences=sequences, blocks=blocks, block=4)


def decoding(position: int = 5, slot: int = 2, window_len: int = 3, *, flush: bool = False) -> Piece:
    return Piece([LAST_SAMPLED], position, slot, [7, 3], window_len=window_len, flush=flush)


def prefilling(count: int = 3, start: int = 4, slot: int = 1) -> Piece:
    return Piece(list(range(50, 50 + count)), start, slot, [5, 2], sample=False, media_rows=[TEXT, *range(count - 1)])


def test_rows_are_decode_then_prefill() -> None:
    launch = batch().fill([decoding()], [prefilling()])
    assert launch.token_ids.tolist() == [LAST_SAMPLED, 50, 51, 52]
    assert launch.positions.tolist() == [5, 4, 5, 6]
    assert launch.kv_slot.tolist() == [3 * 4 + 1, 2 * 4, 2 * 4 + 1, 2 * 4 + 2]
    assert launch.media_row.tolist() == [TEXT, TEXT, 0, 1]
    assert launch.query_start.tolist() == [0, 1, 4]
    assert launch.context_len.tolist() == [6, 7]
    assert launch.state_slot.tolist() == [2, 1]
    assert launch.window_len.tolist() == [3, 0]
    assert launch.flush.tolist() == [False, True]
    assert launch.has_initial_state.tolist() == [True, True]
    assert launch.block_table[:, :2].tolist() == [[7, 3], [5, 2]]
    assert launch.sample_row.tolist() == [0]
    assert launch.flush.dtype == torch.bool
    assert launch.block_table.dtype == torch.int32


def test_the_host_knows_the_sizes() -> None:
    shape = batch().fill([decoding(), decoding(6, 3)], [prefilling(), prefilling(8, 0, 4)]).shape
    assert (shape.decodes, shape.sequences, shape.tokens, shape.samples) == (2, 4, 13, 2)
    assert (shape.longest_query, shape.longest_context) == (8, 8)


def test_padding_stands_in_slot_0_without_history() -> None:
    launch = batch().fill([decoding()], [prefilling()], pad_decodes=3, pad_tokens=12)
    assert (launch.shape.decodes, launch.shape.sequences, launch.shape.tokens) == (3, 5, 12)
    assert launch.query_start.tolist() == [0, 1, 2, 3, 6, 12]
    assert launch.state_slot.tolist() == [2, 0, 0, 1, 0]
    assert launch.kv_slot[[1, 2, *range(6, 12)]].tolist() == [0] * 8
    assert launch.has_initial_state.tolist() == [True, False, False, True, False]
    assert launch.sample_row.tolist() == [0]


def test_the_first_chunk_has_no_state() -> None:
    assert not batch().fill([], [prefilling(start=0)]).has_initial_state.any()


def test_addresses_do_not_move_and_nothing_old_is_left() -> None:
    steps = batch()
    first = steps.fill([decoding()], [prefilling(8, 0)])
    before = first.token_ids.data_ptr(), first.block_table.data_ptr(), first.flush.data_ptr()
    second = steps.fill([decoding(6), decoding(5, 4)], [prefilling(2, 3)])
    assert before == (second.token_ids.data_ptr(), second.block_table.data_ptr(), second.flush.data_ptr())
    assert second.token_ids.tolist() == [LAST_SAMPLED, LAST_SAMPLED, 50, 51]


def test_a_step_under_way_is_not_overwritten_on_the_host() -> None:
    steps = batch()
    hosts = list(steps._hosts)
    steps.fill([decoding(5)], [])
    steps.fill([decoding(6)], [])
    assert {int(host.fields["positions"][0]) for host in hosts} == {5, 6}


@pytest.mark.parametrize(
    ("decodes", "prefills", "message"),
    [
        ([], [], "at least one sequence"),
        ([Piece([1, 2], 4, 1, [1, 2])], [], "one token behind others to decode, got 2 at 4"),
        ([Piece([1], 0, 1, [1])], [], "one token behind others to decode, got 1 at 0"),
        ([], [Piece([1], 0, 1, [1], window_len=1)], "an empty window"),
        ([], [Piece([1], 0, 1, [1], flush=False)], "a flush"),
        ([], [Piece([LAST_SAMPLED], 0, 1, [1])], "known tokens"),
        ([], [Piece([], 0, 1, [1])], "known tokens"),
        ([], [Piece([1] * 5, 0, 1, [1])], "blocks above 0 for 5 positions"),
        ([], [Piece([1], 0, 0, [1])], "a slot and blocks above 0"),
        ([], [Piece([1], 0, 1, [0])], "a slot and blocks above 0"),
        ([], [Piece([1, 2], 0, 1, [1], media_rows=[0])], "2 media rows, got 1"),
        ([], [prefilling(33, 0, 1)], "blocks above 0 for 33 positions"),
        ([], [Piece([1] * 33, 0, 1, list(range(1, 10)))], "at most 32 tokens of 6 sequences with 4 blocks"),
    ],
)
def test_what_the_state_does_not_allow_is_refused(decodes: list[Piece], prefills: list[Piece], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        batch().fill(decodes, prefills)
