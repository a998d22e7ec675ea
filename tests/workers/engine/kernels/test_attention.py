import pytest
import torch
from torch import Tensor

from workers.engine.kernels.kv_write import kv_write
from workers.engine.kernels.paged_attention import paged_attention
from workers.engine.kernels.relative_attention import relative_attention
from workers.engine.kernels.segment_attention import segment_attention

HEADS, KV_HEADS, WIDTH, BLOCK = 4, 2, 8, 4
ONE = torch.ones(2)


def exact(queries: Tensor, keys: Tensor, values: Tensor, start: int) -> Tensor:
    """Query i at position start + i, one after another in fp64."""
    out = torch.empty(queries.shape, dtype=torch.float64)
    for row, query in enumerate(queries.double()):
        seen = start + row + 1
        for head in range(HEADS):
            kv = head // (HEADS // KV_HEADS)
            scores = keys[:seen, kv].double() @ query[head] * WIDTH**-0.5
            out[row, head] = scores.softmax(0) @ values[:seen, kv].double()
    return out.float()


class Pages:
    """A cache of NaN; sequence s owns the blocks s, s + 4, s + 8, ... in this order."""

    def __init__(self, dtype: torch.dtype = torch.float32, scale: Tensor = ONE) -> None:
        torch.manual_seed(0)
        self.cache = torch.full((32, 2, BLOCK, KV_HEADS, WIDTH), torch.nan).to(dtype)
        self.scale = scale

    def __call__(
        self, parts: list[tuple[int, int, Tensor, Tensor, Tensor]], decodes: int, spare: int = 0
    ) -> list[Tensor]:
        """Sequence, start, queries, keys and values of each part; the decoding ones first."""
        table = torch.tensor([[4 * at + owner if owner else 0 for at in range(7)] for owner, *_ in parts])
        slots = [
            int(table[row, at // BLOCK]) * BLOCK + at % BLOCK if part[0] else 0
            for row, part in enumerate(parts)
            for at in range(part[1], part[1] + len(part[2]))
        ]
        queries, keys, values = (torch.cat([part[at] for part in parts]) for at in (2, 3, 4))
        counts = [len(part[2]) for part in parts]
        kv_write(keys, values, self.cache, torch.tensor(slots), self.scale)
        contexts = torch.tensor([part[1] + len(part[2]) for part in parts])
        out = paged_attention(
            queries, self.cache, table.int(), torch.tensor([0, *counts]).cumsum(0), contexts, self.scale,
            decodes=decodes,
            longest_query=max([*counts[decodes:], 0]) + spare,
            longest_context=int(contexts.max()) + spare,
        )  # fmt: skip
        return list(out.split(counts))


def heads(count: int) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.randn(count, number, WIDTH) for number in (HEADS, KV_HEADS, KV_HEADS))  # type: ignore[return-value]


@pytest.mark.parametrize("spare", [0, 5])
def test_decoding_and_prefilling_sequences_meet_their_own_pages(spare: int) -> None:
    pages = Pages()
    one, two, three = heads(14), heads(9), heads(6)
    first = pages([(1, 0, *(x[:13] for x in one)), (2, 0, *(x[:3] for x in two))], decodes=0, spare=spare)
    pad = heads(1)
    rest = [(1, 13, *(x[13:] for x in one)), (0, 0, *pad), (2, 3, *(x[3:] for x in two)), (3, 0, *three)]
    second = pages(rest, decodes=2, spare=spare)
    assert torch.allclose(torch.cat([first[0], second[0]]), exact(*one, 0), atol=1e-5)
    assert torch.allclose(torch.cat([first[1], second[2]]), exact(*two, 0), atol=1e-5)
    assert torch.allclose(second[3], exact(*three, 0), atol=1e-5)
    assert pages.cache[0].isnan().all()


def test_an_e4m3_cache_keeps_what_its_scale_lets_it() -> None:
    scale = torch.tensor([0.25, 4.0])
    pages = Pages(torch.float8_e4m3fn, scale)
    queries, keys, values = heads(10)
    values *= 500  # beyond 448 only with a scale of one
    [got] = pages([(1, 0, queries, keys, values)], decodes=0)
    rounded = [(one / by).to(torch.float8_e4m3fn).float() * by for one, by in ((keys, scale[0]), (values, scale[1]))]
    assert torch.allclose(got, exact(queries, *rounded, 0), rtol=1e-4, atol=1e-2)


def test_keys_beyond_e4m3_saturate() -> None:
    pages = Pages(torch.float8_e4m3fn)
    queries, keys, values = heads(2)
    assert pages([(1, 0, queries, 1000 * keys, 1000 * values)], decodes=0)[0].isfinite().all()


@pytest.mark.parametrize("lengths", [[5], [3, 3, 3], [2, 7, 1]], ids=str)
def test_segments_do_not_meet(lengths: list[int]) -> None:
    torch.manual_seed(0)
    queries, keys, values = torch.randn(3, sum(lengths), HEADS, WIDTH).unbind()
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    scores = torch.einsum("ihw,jhw->hij", queries, keys) * WIDTH**-0.5
    weights = scores.where(owner[:, None] == owner, -torch.inf).softmax(-1)
    expected = torch.einsum("hij,jhw->ihw", weights, values)
    assert torch.allclose(segment_attention(queries, keys, values, lengths), expected, atol=1e-5)


def test_relative_positions_are_distances() -> None:
    torch.manual_seed(0)
    frames, valid = 5, [5, 3]
    queries, keys, values = torch.randn(3, 2, frames, HEADS, WIDTH).unbind()
    relative, (bias_u, bias_v) = torch.randn(2 * frames - 1, HEADS, WIDTH), torch.randn(2, HEADS, WIDTH)
    got = relative_attention(queries, keys, values, relative, bias_u, bias_v, torch.tensor(valid))
    for clip, count in enumerate(valid):
        for i in range(count):
            for head in range(HEADS):
                q = queries[clip, i, head]
                scores = torch.stack([
                    (q + bias_u[head]) @ keys[clip, j, head] + (q + bias_v[head]) @ relative[frames - 1 - (i - j), head]
                    for j in range(count)
                ])  # fmt: skip
                expected = (scores * WIDTH**-0.5).softmax(0) @ values[clip, :count, head]
                assert torch.allclose(got[clip, i, head], expected, atol=1e-5)
