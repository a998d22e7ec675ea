import pytest
import torch
from torch import Tensor

from tests.workers.engine.kernels.launched import needs_triton
from workers.engine.kernels.kv_write import kv_write_kernel, kv_write_ref
from workers.engine.kernels.paged_attention import paged_attention, paged_attention_ref
from workers.engine.kernels.paged_decode import paged_decode_kernel
from workers.engine.kernels.paged_prefill import paged_prefill_kernel

FP16, BF16, E4M3 = torch.float16, torch.bfloat16, torch.float8_e4m3fn
HQ, HK = 32, 2

pytestmark = [
    needs_triton,
    pytest.mark.filterwarnings("ignore:Conversion of an array:DeprecationWarning"),  # Triton's interpreter
]


class Step:
    """Sequences of (rows, positions before) on pages in no order, among pages of NaN; (1, None) is padding."""

    def __init__(
        self, parts: list[tuple[int, int | None]], decodes: int, *, dtype: torch.dtype, cached: torch.dtype,
        width: int, block: int, device: str,
    ) -> None:  # fmt: skip
        torch.manual_seed(0)
        contexts = [rows + (before or 0) for rows, before in parts]
        blocks = [
            0 if before is None else -(-context // block) for context, (_, before) in zip(contexts, parts, strict=True)
        ]
        table = torch.nn.utils.rnn.pad_sequence((torch.randperm(sum(blocks)) + 1).split(blocks), batch_first=True)
        self.cache = torch.full((sum(blocks) + 1, 2, block, HK, width), torch.nan).to(cached)
        self.scale = torch.tensor([0.5, 2.0] if cached == E4M3 else [1.0, 1.0])
        for row, context, count in zip(table, contexts, blocks, strict=True):
            if count:
                at = torch.arange(context)
                keys, values = torch.randn(2, context, HK, width).to(dtype)
                kv_write_ref(keys, values, self.cache, row[at // block] * block + at % block, self.scale)
        # As the projection leaves it: a row of queries, keys and values.
        self.queries = torch.randn(sum(rows for rows, _ in parts), HQ + 2 * HK, width).to(dtype)
        self.table, self.context_len = table.int(), torch.tensor(contexts)
        self.query_start = torch.tensor([0, *(rows for rows, _ in parts)]).cumsum(0)
        for name, value in vars(self).items():
            setattr(self, name, value.to(device))
        self.queries = self.queries[:, :HQ]
        self.decodes, self.longest_context = decodes, max(contexts) + 5
        self.longest_query = max([rows for rows, _ in parts[decodes:]], default=0)

    def __call__(self, attention, dtype: torch.dtype | None = None) -> Tensor:
        cache = self.cache if dtype is None or self.cache.dtype == E4M3 else self.cache.to(dtype)
        return attention(
            self.queries.to(dtype or self.queries.dtype), cache, self.table, self.query_start, self.context_len,
            self.scale, decodes=self.decodes, longest_query=self.longest_query, longest_context=self.longest_context,
        )  # fmt: skip

    def decode(self, rows: slice = slice(None), **options: int) -> Tensor:
        queries = self.queries[rows]
        out = torch.full_like(queries, torch.nan, memory_format=torch.contiguous_format)
        paged_decode_kernel(
            queries, self.cache, self.table[rows], self.context_len[rows], self.scale, out,
            longest_context=self.longest_context, **options,
        )  # fmt: skip
        return out

    def prefill(self, **options: int) -> Tensor:
        out = torch.full_like(self.queries, torch.nan, memory_format=torch.contiguous_format)
        paged_prefill_kernel(
            self.queries, self.cache, self.table, self.query_start, self.context_len, self.scale, out,
            decodes=self.decodes, **options,
        )  # fmt: skip
        return out

    def assert_close(self, got: Tensor, rows: slice = slice(None)) -> None:
        """At most twice torch's error of any row, both against f32."""
        exact, torchs = self(paged_attention_ref, torch.float32)[rows], self(paged_attention_ref)
        size = exact.flatten(1).norm(dim=1)
        ours, theirs = ((x[rows].float() - exact).flatten(1).norm(dim=1) / size for x in (got, torchs))
        assert got[rows].isfinite().all()
        assert ours.max() <= 2 * theirs.max(), f"{ours.max():.1e}, torch {theirs.max():.1e}"


def small(parts: list[tuple[int, int | None]], decodes: int, cached: torch.dtype, device: str, width: int = 16) -> Step:
    return Step(parts, decodes, dtype=FP16, cached=cached, width=width, block=16, device=device)


@pytest.mark.parametrize("cached", [FP16, E4M3], ids=["fp16", "e4m3"])
def test_a_mixed_step_is_the_references(cached: torch.dtype, device: str) -> None:
    step = small([(1, 0), (1, 15), (1, 40), (1, 0), (5, 0), (1, 0), (19, 31), (33, 15)], 4, cached, device)
    step.assert_close(step(paged_attention))


@pytest.mark.parametrize("decodes", [0, 2], ids=["prefill", "decode"])
def test_a_step_of_one_kind_is_the_references(decodes: int, device: str) -> None:
    step = small([(1, 20), (1, 3)], decodes, FP16, device, width=32)
    step.assert_close(step(paged_attention))


@pytest.mark.parametrize("cached", [FP16, E4M3], ids=["fp16", "e4m3"])
def test_splits_sum_to_the_whole_and_do_not_know_their_neighbours(cached: torch.dtype, device: str) -> None:
    step = small([(1, before) for before in (0, 30, 31, 32, 99, 130)], 6, cached, device)
    got = step.decode(split=32, tile=16)
    step.assert_close(got)
    assert torch.equal(step.decode(split=32, tile=16, programs=1), got)
    assert all(torch.equal(step.decode(slice(at, at + 1), split=32, tile=16)[0], got[at]) for at in (0, 3, 5))


@pytest.mark.parametrize("rows", [1, 4, 16])
def test_tiles_of_a_prefill_cover_every_row(rows: int, device: str) -> None:
    step = small([(3, 0), (16, 16), (17, 18), (1, 47)], 0, FP16, device)
    step.assert_close(step.prefill(rows=rows, tile=16, warps=4))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_padding_is_computed_and_harms_nobody(device: str) -> None:
    step = small([(1, 20), (1, None), (7, 9), (6, None)], 2, FP16, device)
    got = step(paged_attention)
    assert got[1].isnan().all() and got[9:].isnan().all()
    step.assert_close(got, slice(1))
    step.assert_close(got, slice(2, 9))


@pytest.mark.parametrize("cached", [FP16, E4M3], ids=["fp16", "e4m3"])
def test_written_pages_are_the_references_bytes(cached: torch.dtype, device: str) -> None:
    torch.manual_seed(0)
    # Exact in E4M3: the interpreter loses the carry where rounding reaches the next power of two.
    heads = (torch.randint(-8, 8, (21, HQ + 2 * HK, 16)).to(FP16) * 64).to(device)
    slot = (torch.randperm(60)[:21] + 1).to(device)
    slot[::5] = 0
    pages = [torch.full((4, 2, 16, HK, 16), torch.nan, device=device).to(cached) for _ in range(2)]
    for write, page in zip((kv_write_ref, kv_write_kernel), pages, strict=True):
        write(heads[:, HQ:-HK], heads[:, -HK:], page, slot, torch.tensor([2.0, 0.5], device=device))
    assert torch.equal(*(page.view(torch.uint8) for page in pages))


@pytest.mark.gpu
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_codes_are_rounded_as_the_reference_rounds(scale: float, device: str) -> None:
    torch.manual_seed(0)
    heads = torch.randn(1000, HQ + 2 * HK, 128, dtype=BF16, device=device) * 200
    heads[3, -4:] = torch.nan
    pages = [torch.full((5, 2, 256, HK, 128), torch.nan, device=device).to(E4M3) for _ in range(2)]
    slot, scales = torch.arange(1000, device=device), torch.tensor([scale, 2 * scale], device="cuda")
    for write, page in zip((kv_write_ref, kv_write_kernel), pages, strict=True):
        write(heads[:, HQ:-HK], heads[:, -HK:], page, slot, scales)
    assert torch.equal(*(page.view(torch.uint8) for page in pages))


@pytest.mark.gpu
@pytest.mark.parametrize("cached", [BF16, E4M3], ids=["bf16", "e4m3"])
def test_the_models_sizes_are_the_references(cached: torch.dtype, device: str) -> None:
    parts = [(1, 0), (1, 255), (1, 1023), (1, 1024), (1, 9000), (7, 0), (129, 300), (1500, 0), (513, 2047)]
    step = Step(parts, 5, dtype=BF16, cached=cached, width=128, block=256, device=device)
    step.assert_close(step(paged_attention))
