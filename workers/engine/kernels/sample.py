"""The next token of each row: mask, temperature, top-k, top-p, a draw, and ids that are forced. Nothing is sorted.

Candidates stand in order of logit, equal ones by id; top-k keeps the first k of them, top-p the fewest of those whose
share reaches p. A number draws among what top-k left, each id as likely as its weight; if top-p does not keep the id,
it falls away with all behind it, and the next number draws among the rest. So every id comes as often as its share of
what is kept says, and whether one is kept asks only for the weight in front of it, not for the place of the cut.

Weights are whole numbers and their sums are exact, so a row's token is the same in any batch. The kernel's exponential
may differ from torch's in its last bit: a draw that close to the border of two ids may then take the other one.

Source: the order of the cuts is that of vLLM and transformers (top-k, then top-p over what it left); to draw again in
front of what was refused is FlashInfer's idea (flashinfer.ai, "Sorting-Free GPU Kernels for LLM Sampling", 2025).
"""

from __future__ import annotations

import torch
from torch import Tensor

from workers.engine.kernels.jit import jit, kernels_run, tl
from workers.engine.kernels.philox import uniform, uniform_of

NEGATIVE = float("-inf")
# Draws of a row at most; then the likeliest is taken. Top-p 0.01 of a flat row needs as many once in 10^14.
TURNS = 32
CHUNK = 4096  # ids of one program
TILE = 4096  # logits that the program of a row reads at once
# Logits of these dtypes differ in the upper bits of their keys alone.
KEY_SHIFT = {torch.float32: 0, torch.float16: 13, torch.bfloat16: 16}


def sample(
    logits: Tensor,
    temperature: Tensor,
    top_p: Tensor,
    top_k: Tensor,
    seed: Tensor,
    position: Tensor,
    forced_id: Tensor,
    mask_row: Tensor,
    masks: Tensor,
    *,
    greedy: bool = False,
) -> Tensor:
    """
    Args:
        logits: [S, vocab] of any float dtype.
        temperature: [S] f32, 0 takes the largest logit (the smallest id of equal ones).
        top_p: [S] f32 in (0, 1].
        top_k: [S] int32, 0 keeps all.
        seed, position: [S] int64, what the draw depends on.
        forced_id: [S] int64, taken as it stands; -1 forces nothing.
        mask_row: [S] int32, row of `masks`; -1 allows all.
        masks: [rows, ceil(vocab / 32)] int32, bit i of word w allows id 32 w + i; no rows where nothing is masked.
        greedy: the caller knows that every row has temperature 0 or top-k 1.

    Returns:
        [S] int64.
    """
    fits = kernels_run(logits) and logits.dtype in KEY_SHIFT and logits.stride(1) == 1
    return (sample_kernel if fits else sample_ref)(
        logits, temperature, top_p, top_k, seed, position, forced_id, mask_row, masks, greedy=greedy
    )  # fmt: skip


def sample_ref(
    logits: Tensor,
    temperature: Tensor,
    top_p: Tensor,
    top_k: Tensor,
    seed: Tensor,
    position: Tensor,
    forced_id: Tensor,
    mask_row: Tensor,
    masks: Tensor,
    *,
    greedy: bool = False,
) -> Tensor:
    allowed = _masked(logits.float(), mask_row, masks)
    if greedy:
        ids = allowed.argmax(-1)
    else:
        turns = torch.arange(TURNS, device=logits.device)[:, None]
        ids = _drawn(allowed, temperature, top_p, top_k, uniform(seed, position, turns))
    return torch.where(forced_id >= 0, forced_id, ids)


def _masked(logits: Tensor, mask_row: Tensor, masks: Tensor) -> Tensor:
    if masks.shape[0] == 0:
        return logits
    words = masks.index_select(0, mask_row.clamp(min=0))  # [S, words]
    bits = (words[:, :, None] >> torch.arange(32, dtype=torch.int32, device=masks.device)) & 1
    refused = (bits == 0).flatten(1)[:, : logits.shape[1]] & (mask_row >= 0)[:, None]
    return logits.masked_fill(refused, NEGATIVE)


def _drawn(logits: Tensor, temperature: Tensor, top_p: Tensor, top_k: Tensor, draws: Tensor) -> Tensor:
    """[S] int64. `logits`: [S, vocab] f32; `draws`: [turns, S] f64; the others [S]."""
    vocab = logits.shape[1]
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    places = torch.arange(vocab, device=logits.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, places)  # of each id
    cold = temperature <= 0
    scaled = (ordered - ordered[:, :1]) / temperature.masked_fill(cold, 1.0)[:, None]
    weight = (scaled.exp().nan_to_num(0.0).double() * 2.0 ** bits_of(vocab)).round().long()
    upto = weight.cumsum(-1)
    most = torch.where(top_k > 0, top_k, vocab).clamp(max=vocab).long()
    needed = top_p.double() * upto.gather(1, most[:, None] - 1).squeeze(1)
    kept = (upto - weight < needed[:, None]).sum(-1)  # never more than top-k: they reach all of it
    weight = weight.gather(1, rank)
    taken, open = order[:, 0], ~cold & (kept > 0)
    for draw in draws:
        upto = weight.masked_fill(rank >= most[:, None], 0).cumsum(-1)
        target = (draw * upto[:, -1]).floor().long().minimum(upto[:, -1] - 1)
        id = torch.searchsorted(upto, target[:, None], right=True)
        place = rank.gather(1, id).squeeze(1)
        taken = torch.where(open & (place < kept), id.squeeze(1), taken)
        open = open & (place >= kept)
        most = torch.where(open, place, most)
    return taken


def bits_of(vocab: int) -> int:
    """Weights are multiples of 2^-bits of the largest, so that their sum over a vocabulary is exact in float64 too."""
    return 53 - (vocab - 1).bit_length()


def sample_kernel(
    logits: Tensor,
    temperature: Tensor,
    top_p: Tensor,
    top_k: Tensor,
    seed: Tensor,
    position: Tensor,
    forced_id: Tensor,
    mask_row: Tensor,
    masks: Tensor,
    *,
    greedy: bool = False,
    warps: int = 4,
    row_warps: int = 16,
) -> Tensor:
    """Largest logit of each chunk; weight of each chunk; then one program for a row looks into the chunk it drew."""
    rows, vocab = logits.shape
    ids = torch.empty_like(forced_id)
    if not rows:
        return ids
    chunks = 1 << (-(-vocab // CHUNK) - 1).bit_length()
    best, sums = torch.empty((2, rows, chunks), dtype=torch.int64, device=logits.device)
    source = logits, logits.stride(0), mask_row, masks, masks.stride(0)
    sizes = {"vocab": vocab, "chunk": CHUNK, "chunks": chunks, "shift": KEY_SHIFT[logits.dtype]}
    one = 2.0 ** bits_of(vocab)
    _largest[(rows, chunks)](*source, best, **sizes, num_warps=warps)
    if greedy:
        _take_first[(rows,)](best, ids, forced_id, chunks=chunks, num_warps=1)
        return ids
    _weights[(rows, chunks)](*source, best, sums, temperature, top_k, **sizes, one=one, num_warps=warps)
    _take[(rows,)](
        *source, best, sums, ids, temperature, top_p, top_k, seed, position, forced_id,
        **sizes, columns=min(CHUNK, TILE // chunks), one=one, turns=TURNS, num_warps=row_warps,
    )  # fmt: skip
    return ids


@jit
def _largest(
    logits, stride, mask_row, masks, mask_stride, best,
    vocab: tl.constexpr, chunk: tl.constexpr, chunks: tl.constexpr, shift: tl.constexpr,
):  # fmt: skip
    """Key and id of the largest logit of a chunk in one number, whose largest is that of the row."""
    row, at = tl.program_id(0), tl.program_id(1)
    line, words, masked = _row(logits, stride, mask_row, masks, mask_stride, row)
    ids = at * chunk + tl.arange(0, chunk)
    keys = _keys(_read(line, words, masked, ids, vocab, chunk * chunks), shift)
    key = tl.max(keys, 0)
    id = tl.min(tl.where(keys == key, ids, 0x7FFFFFFF), 0)
    tl.store(best + row * chunks + at, (key.to(tl.int64) << 32) | (0x7FFFFFFF - id))


@jit
def _first(best, row, chunks: tl.constexpr):
    """Key and id of the largest logit of a row."""
    first = tl.max(tl.load(best + row * chunks + tl.arange(0, chunks)), 0)
    return (first >> 32).to(tl.int32), 0x7FFFFFFF - (first & 0x7FFFFFFF)


@jit
def _take_first(best, ids, forced_id, chunks: tl.constexpr):
    row = tl.program_id(0)
    forced = tl.load(forced_id + row)
    _, first = _first(best, row, chunks)
    tl.store(ids + row, tl.where(forced >= 0, forced, first))


@jit
def _weights(
    logits, stride, mask_row, masks, mask_stride, best, sums, temperature, top_k,
    vocab: tl.constexpr, chunk: tl.constexpr, chunks: tl.constexpr, shift: tl.constexpr, one: tl.constexpr,
):  # fmt: skip
    """Weight of a chunk, in rows that draw among all ids."""
    row, at = tl.program_id(0), tl.program_id(1)
    heat, most = tl.load(temperature + row), tl.load(top_k + row)
    if (heat <= 0) | ((most > 0) & (most < vocab)):
        return
    line, words, masked = _row(logits, stride, mask_row, masks, mask_stride, row)
    key, _ = _first(best, row, chunks)
    ids = at * chunk + tl.arange(0, chunk)
    x = _read(line, words, masked, ids, vocab, chunk * chunks)
    tl.store(sums + row * chunks + at, tl.sum(_weigh(x, _logit(key, shift), _rate(heat), one), 0))


@jit
def _take(
    logits, stride, mask_row, masks, mask_stride, best, sums, ids, temperature, top_p, top_k, seed, position, forced_id,
    vocab: tl.constexpr, chunk: tl.constexpr, chunks: tl.constexpr, shift: tl.constexpr,
    columns: tl.constexpr, one: tl.constexpr, turns: tl.constexpr,
):  # fmt: skip
    """The id of a row. A bound (key, id) keeps what stands in front of it and the candidate it names itself."""
    row = tl.program_id(0)
    forced, heat, most = tl.load(forced_id + row), tl.load(temperature + row), tl.load(top_k + row)
    key, taken = _first(best, row, chunks)
    if (forced >= 0) | (heat <= 0) | (most == 1):
        tl.store(ids + row, tl.where(forced >= 0, forced, taken))
        return
    line, words, masked = _row(logits, stride, mask_row, masks, mask_stride, row)
    largest, rate, last = _logit(key, shift), _rate(heat), tl.full((), vocab, tl.int32)
    if (most > 0) & (most < vocab):
        key, last = _cut(line, words, masked, key, most, vocab, chunk, chunks, shift, columns)
        shares = _sums(line, words, masked, largest, rate, key, last, vocab, chunk, chunks, shift, columns, one)
    else:
        key = tl.full((), -0x80000000, tl.int32)
        shares = tl.load(sums + row * chunks + tl.arange(0, chunks))
    share, random, start = tl.load(top_p + row), tl.load(seed + row), tl.load(position + row)
    total = tl.sum(shares, 0)
    needed = share.to(tl.float64) * total.to(tl.float64)
    turn = tl.where(total > 0, 0, turns)  # a row without weights keeps its first
    while turn < turns:
        target = (uniform_of(random, start, turn) * total.to(tl.float64)).to(tl.int64)
        target = tl.minimum(target, total - 1)
        upto = tl.cumsum(shares, 0)
        which = tl.sum((upto <= target).to(tl.int32), 0)
        target -= tl.sum(tl.where(upto <= target, shares, 0), 0)
        inner = which * chunk + tl.arange(0, chunk)
        x = _read(line, words, masked, inner, vocab, chunk * chunks)
        keys = _keys(x, shift)
        weight = tl.where(_within(keys, inner, key, last), _weigh(x, largest, rate, one), 0)
        drawn = which * chunk + tl.sum((tl.cumsum(weight, 0) <= target).to(tl.int32), 0)
        turn += 1
        total *= 0
        if share < 1:
            key, last = tl.sum(tl.where(inner == drawn, keys, 0), 0), drawn - 1
            shares = _sums(line, words, masked, largest, rate, key, last, vocab, chunk, chunks, shift, columns, one)
            total = tl.sum(shares, 0)
        if total.to(tl.float64) < needed:  # so top-p keeps it
            taken, turn = drawn.to(tl.int64), turn * 0 + turns
    tl.store(ids + row, taken)


@jit
def _cut(
    line, words, masked, high, most,
    vocab: tl.constexpr, chunk: tl.constexpr, chunks: tl.constexpr, shift: tl.constexpr, columns: tl.constexpr,
):  # fmt: skip
    """Key and id of the candidate at place `most`, counted from 1; `high` is the key of the first."""
    at = tl.arange(0, chunks)[:, None] * chunk + tl.arange(0, columns)[None, :]
    # The largest key that so many reach lies in low..high.
    low = _keys(tl.full((), float("-inf"), tl.float32), shift).to(tl.int64)
    high = high.to(tl.int64)
    while low < high:
        middle = (low + high + 1) >> 1
        reach = tl.zeros((chunks, columns), tl.int32)
        for start in range(0, chunk, columns):
            keys = _keys(_read(line, words, masked, at + start, vocab, chunk * chunks), shift)
            reach += (keys >= middle.to(tl.int32)).to(tl.int32)
        count = tl.sum(tl.sum(reach, 1), 0)
        low = tl.where(count >= most, middle, low)
        high = tl.where(count >= most, tl.where(count == most, middle, high), middle - 1)
    key = low.to(tl.int32)
    above = tl.zeros((chunks, columns), tl.int32)
    equal = tl.zeros((chunks, columns), tl.int32)
    for start in range(0, chunk, columns):
        keys = _keys(_read(line, words, masked, at + start, vocab, chunk * chunks), shift)
        above += (keys > key).to(tl.int32)
        equal += (keys == key).to(tl.int32)
    rest = most - tl.sum(tl.sum(above, 1), 0)
    counts = tl.sum(equal, 1)
    upto = tl.cumsum(counts, 0)
    which = tl.sum((upto < rest).to(tl.int32), 0)
    rest -= tl.sum(tl.where(upto < rest, counts, 0), 0)
    inner = which * chunk + tl.arange(0, chunk)
    keys = _keys(_read(line, words, masked, inner, vocab, chunk * chunks), shift)
    return key, which * chunk + tl.sum((tl.cumsum((keys == key).to(tl.int32), 0) < rest).to(tl.int32), 0)


@jit
def _sums(
    line, words, masked, largest, rate, key, last,
    vocab: tl.constexpr, chunk: tl.constexpr, chunks: tl.constexpr, shift: tl.constexpr, columns: tl.constexpr,
    one: tl.constexpr,
):  # fmt: skip
    """[chunks] int64: weight within the bound."""
    at = tl.arange(0, chunks)[:, None] * chunk + tl.arange(0, columns)[None, :]
    sums = tl.zeros((chunks, columns), tl.int64)
    for start in range(0, chunk, columns):
        x = _read(line, words, masked, at + start, vocab, chunk * chunks)
        within = _within(_keys(x, shift), at + start, key, last)
        sums += tl.where(within, _weigh(x, largest, rate, one), 0)
    return tl.sum(sums, 1)


@jit
def _row(logits, stride, mask_row, masks, mask_stride, row):
    """Where the logits and the mask of a row begin, and whether it is masked."""
    masked = tl.load(mask_row + row)
    return logits + row.to(tl.int64) * stride, masks + masked.to(tl.int64) * mask_stride, masked >= 0


@jit
def _read(line, words, masked, ids, vocab: tl.constexpr, padded: tl.constexpr):
    """Logits f32, -inf where the mask refuses or nothing is."""
    if vocab == padded:
        x = tl.load(line + ids).to(tl.float32)
    else:
        x = tl.load(line + ids, ids < vocab, other=float("-inf")).to(tl.float32)
    if masked:
        allowed = tl.load(words + (ids >> 5), ids < vocab, other=0) >> (ids & 31)
        x = tl.where(allowed & 1 == 1, x, float("-inf"))
    return x


@jit
def _keys(x, shift: tl.constexpr):
    """int32 in the order of the logits; NaN is the largest, the zeros are equal."""
    bits = (x + 0.0).to(tl.int32, bitcast=True)
    keys = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return tl.where(x == x, keys, 0x7FFFFFFF) >> shift


@jit
def _logit(key, shift: tl.constexpr):
    """The logit of a key."""
    key = tl.where(key < 0, ((key + 1) << shift) - 1, key << shift)
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@jit
def _within(keys, ids, key, last):
    return (keys > key) | ((keys == key) & (ids <= last))


@jit
def _rate(heat):
    return 1.4426950408889634 / heat


@jit
def _weigh(x, largest, rate, one: tl.constexpr):
    share = tl.exp2((x - largest) * rate)
    return (tl.where(share <= 1, share, 0.0) * one + 0.5).to(tl.int64)
