"""One call, whatever the format of the weight."""

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402
from torch import dtype as DType  # noqa: E402

from workers.engine.checkpoint.formats import (  # noqa: E402
    E4M3,
    Dense,
    Fp8,
    Nvfp4,
    dequantise,
    fp8_scale,
    quantise_fp8,
    quantise_nvfp4,
)
from workers.engine.model.linear import linear  # noqa: E402

HALF_UNIT = 2.0**-8  # of bf16, as a share of the number that is rounded


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def fp8(weight: Tensor, input_scale: float | None, dtype: DType = torch.float32) -> Fp8:
    scale = fp8_scale(weight)
    given = None if input_scale is None else torch.tensor(input_scale)
    return Fp8(quantise_fp8(weight, scale), scale.view(1), given, dtype)


def test_dense_is_the_product_and_the_bias() -> None:
    x, weight, bias = draw(2, 3, 5), draw(7, 5, seed=1), draw(7, seed=2)
    expected = torch.einsum("bti,oi->bto", x, weight)
    torch.testing.assert_close(linear(x, Dense(weight)), expected)
    torch.testing.assert_close(linear(x, Dense(weight, bias)), expected + bias)


def test_fp8_rounds_the_activations_by_the_static_scale() -> None:
    x, weight, scale = draw(3, 16) * 3, fp8(draw(4, 16, seed=1), 0.01), 0.01
    answer = linear(x, weight)
    for t in range(3):
        for o in range(4):
            codes = (x[t] / scale).clamp(-448, 448).to(E4M3).double()
            expected = float((codes * weight.weight[o].double()).sum()) * scale * float(weight.scale)
            assert float(answer[t, o]) == pytest.approx(expected, rel=1e-5, abs=1e-5)
    # The largest activation that the scale can hold is 4.48: more saturates.
    assert torch.equal(linear(x.clamp(-4.48, 4.48), weight), answer)
    assert not torch.equal(linear(x, fp8(draw(4, 16, seed=1), None)), answer)


def test_activations_may_come_rounded_by_the_norm_in_front() -> None:
    x, weight = draw(3, 16), fp8(draw(4, 16, seed=1), 0.01)
    assert torch.equal(linear(quantise_fp8(x, torch.tensor(0.01)), weight), linear(x, weight))


def test_without_an_input_scale_only_the_weight_is_quantised() -> None:
    x, weight = draw(3, 16), fp8(draw(4, 16, seed=1), None)
    torch.testing.assert_close(linear(x, weight), x @ dequantise(weight).T)


def test_a_merged_layer_is_its_layers_side_by_side() -> None:
    x, one, other = draw(3, 16), fp8(draw(4, 16, seed=1), 0.02), fp8(draw(6, 16, seed=2) * 9, 0.02)
    scale = torch.cat([one.scale.expand(4), other.scale.expand(6)])
    merged = Fp8(torch.cat([one.weight, other.weight]), scale, torch.tensor(0.02), torch.float32)
    torch.testing.assert_close(linear(x, merged), torch.cat([linear(x, one), linear(x, other)], dim=-1))


def test_nvfp4_is_the_product_with_what_it_means() -> None:
    x, weight = draw(3, 32), Nvfp4(*quantise_nvfp4(draw(5, 32, seed=1)), None, torch.float32)
    torch.testing.assert_close(linear(x, weight), x @ dequantise(weight).T)


@pytest.mark.parametrize("rows", [0, 1])
def test_the_answer_has_the_dtype_of_the_weight_and_the_rows_of_x(rows: int) -> None:
    x = draw(rows, 32).bfloat16()
    whole = draw(5, 32, seed=1)
    for weight in (
        Dense(whole.bfloat16()),
        fp8(whole, 0.01, torch.bfloat16),
        fp8(whole, None, torch.bfloat16),
        Nvfp4(*quantise_nvfp4(whole), None, torch.bfloat16),
    ):
        answer = linear(x, weight)
        assert (answer.shape, answer.dtype) == ((rows, 5), torch.bfloat16)


def test_other_widths_are_refused() -> None:
    with pytest.raises(RuntimeError, match="shapes"):
        linear(draw(3, 16), fp8(draw(4, 32), 0.01))


@pytest.mark.gpu
@pytest.mark.parametrize("merged", [False, True], ids=["scalar", "rows"])
@pytest.mark.parametrize("rows", [1, 17, 400])
def test_on_the_card_fp8_is_the_reference(rows: int, merged: bool) -> None:
    weight = fp8(draw(64, 128, seed=1), 0.01, torch.bfloat16)
    if merged:
        weight = Fp8(weight.weight, torch.linspace(0.001, 0.01, 64), weight.input_scale, torch.bfloat16)
    x = draw(rows, 128).bfloat16()
    assert weight.input_scale is not None
    card = Fp8(weight.weight.cuda(), weight.scale.cuda(), weight.input_scale.cuda(), torch.bfloat16)
    got, expected = linear(x.cuda(), card).cpu().float(), linear(x, weight).float()
    # Both round the sum to bf16, by half a unit each; and tensor cores cut each term to the width of the largest, which
    # where terms cancel is all that is left: half a unit of bf16 of that one bounds it.
    codes = quantise_fp8(x, weight.input_scale).float()
    terms = (codes[:, None] * weight.weight.float()).abs().amax(-1) * (weight.input_scale * weight.scale)
    assert ((got - expected).abs() <= HALF_UNIT * (terms + 2 * expected.abs())).all()
    assert (HALF_UNIT * terms < 0.1 * expected.abs()).float().mean() > 0.5  # most of it is told from another scale
