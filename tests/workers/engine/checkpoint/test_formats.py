"""Quantised numbers, by the specification's tables and formulas written out as loops."""

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from tests.workers.engine.no_sync import NoSync  # noqa: E402
from workers.engine.checkpoint.formats import (  # noqa: E402
    E4M3,
    Dense,
    Fp8,
    Nvfp4,
    dequantise,
    dequantise_fp8,
    dequantise_nvfp4,
    e2m1_codes,
    fp8_scale,
    pack_e2m1,
    quantise_fp8,
    quantise_nvfp4,
    unpack_e2m1,
)
from workers.engine.checkpoint.swizzle import swizzle, unswizzle  # noqa: E402

MAGNITUDES = [0, 0.5, 1, 1.5, 2, 3, 4, 6]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_byte_holds_the_even_column_below_the_odd_one() -> None:
    # 0x7A: low nibble A = sign and code 2, so -1.0; high nibble 7, so 6.0.
    assert unpack_e2m1(torch.tensor([[0x7A]], dtype=torch.uint8)).tolist() == [[-1.0, 6.0]]
    every = torch.arange(256, dtype=torch.uint8)
    expected = [(1 - 2 * (code >> 3)) * MAGNITUDES[code & 7] for byte in range(256) for code in (byte & 15, byte >> 4)]
    assert unpack_e2m1(every).tolist() == expected
    # Code for code but for minus zero, which is zero.
    assert torch.equal(unpack_e2m1(pack_e2m1(e2m1_codes(unpack_e2m1(every)))), unpack_e2m1(every))


@pytest.mark.parametrize(
    ("value", "rounded"),
    [
        (0.24, 0),
        (0.25, 0),
        (0.26, 0.5),
        (0.75, 1),
        (1.25, 1),
        (1.75, 2),
        (2.5, 2),
        (3.5, 4),
        (5.0, 4),
        (5.1, 6),
        (99, 6),
    ],
)
@pytest.mark.parametrize("sign", [1, -1])
def test_rounding_goes_to_the_nearest_and_between_two_to_the_even_code(value: float, rounded: float, sign: int) -> None:
    assert unpack_e2m1(pack_e2m1(e2m1_codes(torch.tensor([sign * value, 0.0])))).tolist() == [sign * rounded, 0]


def test_nvfp4_is_code_times_block_scale_times_scale_2() -> None:
    packed = torch.randint(256, (3, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    block_scale = (draw(3, 2).abs() * 100).to(E4M3)
    scale_2 = torch.tensor(0.0123)
    whole = dequantise_nvfp4(packed, block_scale, scale_2)
    for o in range(3):
        for i in range(32):
            code = int(packed[o, i // 2]) >> 4 * (i % 2) & 15
            e2m1 = (1 - 2 * (code >> 3)) * MAGNITUDES[code & 7]
            assert float(whole[o, i]) == pytest.approx(e2m1 * float(block_scale[o, i // 16]) * 0.0123, rel=1e-6)


def test_nvfp4_scales_are_those_of_the_formula() -> None:
    weight = draw(4, 48)
    weight[2, 16:32] = 0
    packed, block_scale, scale_2 = quantise_nvfp4(weight)
    assert float(scale_2) == pytest.approx(float(weight.abs().max()) / (6 * 448))
    for o in range(4):
        for block in range(3):
            largest = float(weight[o, 16 * block : 16 * block + 16].abs().max())
            exact = torch.tensor(min(max(largest / 6 / float(scale_2), 2**-9), 448.0)).to(E4M3)
            assert float(block_scale[o, block]) == (float(exact) if largest else 1.0)
    back = dequantise_nvfp4(packed, block_scale, scale_2)
    assert (back[2, 16:32] == 0).all()
    # Neighbours are at most 2 of 6 apart, and the block's scale was rounded to 3 bits.
    bound = weight.view(4, 3, 16).abs().amax(-1, keepdim=True) * (1 / 6 + 1 / 16)
    assert ((back - weight).view(4, 3, 16).abs() <= bound).all()


def test_what_nvfp4_can_hold_comes_back_exactly() -> None:
    weight = torch.tensor([[*MAGNITUDES, *(-value for value in MAGNITUDES)]])
    assert dequantise_nvfp4(*quantise_nvfp4(weight * 2)).tolist() == (weight * 2).tolist()


def test_a_weight_of_zeros_stays_zero_in_every_format() -> None:
    zeros = torch.zeros(2, 16)
    assert (dequantise_nvfp4(*quantise_nvfp4(zeros)) == 0).all()
    assert (dequantise_fp8(quantise_fp8(zeros, fp8_scale(zeros)), fp8_scale(zeros).view(1)) == 0).all()


def test_fp8_saturates() -> None:
    assert quantise_fp8(torch.tensor([1e6, -1e6, 448.0]), torch.tensor(1.0)).float().tolist() == [448, -448, 448]


def test_fp8_is_code_times_scale_and_maps_the_largest_to_448() -> None:
    weight = draw(5, 7)
    scale = fp8_scale(weight)
    codes = quantise_fp8(weight, scale)
    assert float(scale) == pytest.approx(float(weight.abs().max()) / 448)
    assert float(codes.float().abs().max()) == 448
    back = dequantise_fp8(codes, scale.view(1))
    assert torch.equal(back, codes.float() * scale)
    assert ((back - weight).abs() <= weight.abs() / 16 + scale * 2**-10).all()


def test_a_merged_weight_has_a_scale_for_each_row() -> None:
    codes = quantise_fp8(draw(3, 4), torch.tensor(0.01))
    back = dequantise_fp8(codes, torch.tensor([1.0, 2.0, 3.0]))
    assert torch.equal(back, torch.stack([codes[at].float() * (at + 1) for at in range(3)]))


def test_a_stack_is_its_experts() -> None:
    singles = [quantise_nvfp4(draw(8, 32, seed=seed)) for seed in range(3)]
    packed, block_scale, scale_2 = (torch.stack(pieces) for pieces in zip(*singles, strict=True))
    stack = Nvfp4(packed, block_scale, scale_2, None, torch.float32)
    for at, pieces in enumerate(singles):
        assert torch.equal(dequantise(stack)[at], dequantise_nvfp4(*pieces))
    fp8 = [(quantise_fp8(draw(8, 32, seed=seed), torch.tensor(0.01 + seed))) for seed in range(3)]
    scales = torch.tensor([[0.01], [1.01], [2.01]])
    whole = dequantise(Fp8(torch.stack(fp8), scales, None, torch.float32))
    assert torch.equal(whole[2], fp8[2].float() * 2.01)
    assert dequantise(Dense(draw(2, 2)), torch.bfloat16).dtype == torch.bfloat16


def test_swizzled_scales_stand_where_cublas_looks_for_them() -> None:
    rows, columns = 200, 6
    scale = torch.randint(1, 255, (rows, columns), dtype=torch.uint8, generator=torch.Generator().manual_seed(2))
    flat = swizzle(scale).flatten()
    assert flat.numel() == 256 * 8
    seen = torch.zeros_like(flat)
    for row in range(rows):
        for column in range(columns):
            tile = (row // 128) * 2 + column // 4
            place = tile * 512 + (row % 32) * 16 + (row % 128 // 32) * 4 + column % 4
            assert flat[place] == scale[row, column]
            seen[place] = 1
    assert (flat[seen == 0] == 0).all()


@pytest.mark.parametrize(("rows", "columns", "padded"), [(1856, 168, 1920), (2688, 116, 2688), (1, 1, 128)])
def test_swizzling_pads_and_is_undone(rows: int, columns: int, padded: int) -> None:
    scale = torch.randint(256, (2, rows, columns), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    there = swizzle(scale.view(E4M3))
    assert there.shape == (2, padded, -(-columns // 4) * 4) and there.dtype == E4M3
    assert torch.equal(unswizzle(there, rows, columns).view(torch.uint8), scale)
    single = swizzle(scale[1])
    assert torch.equal(single, there[1].view(torch.uint8))


def test_turning_weights_into_numbers_waits_for_nothing() -> None:
    packed, block_scale, scale_2 = quantise_nvfp4(draw(24, 48))
    weights = (
        Dense(draw(24, 48)),
        Fp8(draw(24, 48).to(E4M3), torch.ones(1), None, torch.float32),
        Nvfp4(packed, block_scale, scale_2, None, torch.float32),
        Nvfp4(packed, swizzle(block_scale), scale_2, None, torch.float32, swizzled=True),
    )
    with NoSync():
        assert [dequantise(weight).shape for weight in weights] == [(24, 48)] * 4


def test_a_swizzled_weight_means_the_same() -> None:
    packed, block_scale, scale_2 = quantise_nvfp4(draw(24, 48))
    plain = Nvfp4(packed, block_scale, scale_2, None, torch.float32)
    repacked = Nvfp4(packed, swizzle(block_scale), scale_2, None, torch.float32, swizzled=True)
    assert torch.equal(dequantise(plain), dequantise(repacked))
