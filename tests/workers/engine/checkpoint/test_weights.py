"""Merging and stacking change no bit of a weight, and say which scale belongs to what."""

from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from tests.workers.engine.checkpoint.conftest import ALGOS  # noqa: E402
from workers.engine.checkpoint import configs  # noqa: E402
from workers.engine.checkpoint.drawn import Drawn  # noqa: E402
from workers.engine.checkpoint.formats import Dense, Fp8, Nvfp4, dequantise  # noqa: E402
from workers.engine.checkpoint.reader import Checkpoint  # noqa: E402
from workers.engine.checkpoint.ring import PinnedRing  # noqa: E402
from workers.engine.checkpoint.weights import ScaleError, Weights  # noqa: E402

Directory = Callable[..., Path]
LAYERS = "language_model.backbone.layers."
QKV = [f"{LAYERS}3.mixer.{letter}_proj" for letter in "qkv"]
EXPERTS = f"{LAYERS}1.mixer.experts"


class Watched:
    """A source that keeps what was asked of it, and may lie about a tensor."""

    def __init__(self, source: Drawn | Checkpoint, **lies: Tensor) -> None:
        self.source, self.lies = source, lies
        self.config, self.formats, self.names = source.config, dict(source.formats), source.names
        self.released: list[str] = []

    def tensor(self, name: str) -> Tensor:
        for end, lie in self.lies.items():
            if name.endswith(f".{end}"):
                return lie
        return self.source.tensor(name)

    def release(self, name: str) -> None:
        self.released.append(name)
        self.source.release(name)


def scale_of(source: Drawn, module: str, kind: str) -> float:
    return float(source.tensor(f"{module}.{kind}"))


def test_dense_layers_are_stacked_in_the_order_given(tiny: Directory) -> None:
    weights, drawn = Weights(Checkpoint.open(tiny())), Drawn(configs.tiny())
    merged = weights.merged(QKV)
    assert isinstance(merged, Dense) and merged.bias is None
    assert torch.equal(merged.weight, torch.cat([drawn.whole(module) for module in QKV]))
    reversed_order = weights.merged(QKV[::-1])
    assert isinstance(reversed_order, Dense) and not torch.equal(reversed_order.weight, merged.weight)


def test_a_linear_layer_has_its_bias_where_there_is_one(tiny: Directory) -> None:
    source = Checkpoint.open(tiny())
    block = "vision_model.radio_model.model.blocks.1.attn.qkv"
    linear = Weights(source).linear(block)
    assert isinstance(linear, Dense) and linear.bias is not None
    assert torch.equal(linear.weight, source.tensor(f"{block}.weight"))
    assert torch.equal(linear.bias, source.tensor(f"{block}.bias"))


def test_merged_fp8_keeps_every_code_and_a_scale_for_each_row(tiny: Directory) -> None:
    source, drawn = Checkpoint.open(tiny("FP8")), Drawn(configs.tiny(), "FP8")
    merged = Weights(source).merged(QKV)
    assert isinstance(merged, Fp8) and merged.input_scale is not None
    codes = torch.cat([source.tensor(f"{module}.weight").view(torch.uint8) for module in QKV])
    assert torch.equal(merged.weight.view(torch.uint8), codes)
    rows = {"q": range(128), "k": range(128, 192), "v": range(192, 256)}
    for module, at in zip(QKV, rows.values(), strict=True):
        assert set(merged.scale[at.start : at.stop].tolist()) == {scale_of(drawn, module, "weight_scale")}
    assert len(set(merged.scale.tolist())) == 3
    assert float(merged.input_scale) == max(scale_of(drawn, module, "input_scale") for module in QKV)
    alone = [dequantise(Weights(source).linear(module)) for module in QKV]
    assert torch.equal(dequantise(merged), torch.cat(alone))


@pytest.mark.parametrize("projection", ["up_proj", "down_proj"])
@pytest.mark.parametrize("algo", ALGOS)
def test_a_stack_holds_every_expert_as_it_is_on_disk(tiny: Directory, algo: str | None, projection: str) -> None:
    source = Checkpoint.open(tiny(algo))
    stack = Weights(source).experts(EXPERTS, projection)
    assert stack.weight.shape[0] == 8 and stack.weight.is_contiguous()
    for at in range(8):
        module = f"{EXPERTS}.{at}.{projection}"
        assert torch.equal(stack.weight[at].view(torch.uint8), source.tensor(f"{module}.weight").view(torch.uint8))
        assert torch.equal(dequantise(stack)[at], dequantise(Weights(source).linear(module)))


@pytest.mark.parametrize("algo", ["FP8", "NVFP4"])
def test_up_takes_the_layers_largest_input_scale_and_down_each_experts_own(tiny: Directory, algo: str) -> None:
    weights, drawn = Weights(Checkpoint.open(tiny(algo))), Drawn(configs.tiny(), algo)

    def scales(projection: str) -> list[float]:
        return [scale_of(drawn, f"{EXPERTS}.{at}.{projection}", "input_scale") for at in range(8)]

    up, down = (weights.experts(EXPERTS, projection) for projection in ("up_proj", "down_proj"))
    assert isinstance(up, Fp8 | Nvfp4) and isinstance(down, Fp8 | Nvfp4)
    assert up.input_scale is not None and down.input_scale is not None
    assert up.input_scale.shape == () and float(up.input_scale) == max(scales("up_proj")) > min(scales("up_proj"))
    assert down.input_scale.tolist() == scales("down_proj") and len(set(scales("down_proj"))) == 8


def test_nvfp4_is_close_to_what_was_quantised(tiny: Directory) -> None:
    stack = Weights(Checkpoint.open(tiny("NVFP4"))).experts(EXPERTS, "up_proj")
    drawn = Drawn(configs.tiny(), "NVFP4")
    whole = torch.stack([drawn.whole(f"{EXPERTS}.{at}.up_proj") for at in range(8)])
    error = (dequantise(stack) - whole).square().mean() / whole.square().mean()
    assert 0.001 < float(error.sqrt()) < 0.12


def test_scales_are_put_in_order_for_fp4_cores_once_at_load(tiny: Directory) -> None:
    source = Checkpoint.open(tiny("NVFP4"))
    plain, repacked = (Weights(source, fp4_cores=cores).experts(EXPERTS, "up_proj") for cores in (False, True))
    assert isinstance(plain, Nvfp4) and isinstance(repacked, Nvfp4)
    assert not plain.swizzled and plain.block_scale.shape == (8, 48, 6)
    assert repacked.swizzled and repacked.block_scale.shape == (8, 128, 8)
    assert torch.equal(dequantise(plain), dequantise(repacked))
    shared = Weights(source, fp4_cores=True).linear(f"{EXPERTS}.5.up_proj")
    assert torch.equal(dequantise(shared), dequantise(plain)[5])


def test_numbers_that_were_drawn_need_no_directory(tiny: Directory) -> None:
    for algo in ALGOS:
        files, drawn = Weights(Checkpoint.open(tiny(algo))), Weights(Drawn(configs.tiny(), algo))
        assert torch.equal(dequantise(files.experts(EXPERTS, "up_proj")), dequantise(drawn.experts(EXPERTS, "up_proj")))


def test_everything_comes_in_the_dtype_asked_for(tiny: Directory) -> None:
    for algo in ALGOS:
        weights = Weights(Checkpoint.open(tiny(algo)), dtype=torch.bfloat16)
        for weight in (weights.merged(QKV), weights.experts(EXPERTS, "down_proj")):
            assert dequantise(weight).dtype == torch.bfloat16
    assert weights.tensor("mlp1.0.weight").dtype == torch.bfloat16
    assert weights.tensor(f"{LAYERS}0.mixer.A_log", torch.float32).dtype == torch.float32


def test_kv_scales_are_1_unless_the_checkpoint_has_others() -> None:
    layer = f"{LAYERS}3.mixer"
    assert [float(one) for one in Weights(Drawn(configs.tiny(), "FP8")).kv_scales(layer)] == [1.0, 1.0]
    drawn = Drawn(configs.tiny(), "FP8", kv_scales=True)
    expected = [float(drawn.tensor(f"{layer}.{name}")) for name in ("k_proj.k_scale", "v_proj.v_scale")]
    assert [float(one) for one in Weights(drawn).kv_scales(layer)] == expected and expected[0] != expected[1]


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("kind", ["input_scale", "weight_scale"])
def test_a_scale_that_cannot_be_is_refused_by_name(kind: str, scale: float) -> None:
    source = Watched(Drawn(configs.tiny(), "FP8"), **{f"4.up_proj.{kind}": torch.tensor(scale)})
    with pytest.raises(ScaleError, match=rf"experts\.4\.up_proj\.{kind}: expected a scale above zero"):
        Weights(source).experts(EXPERTS, "up_proj")


@pytest.mark.parametrize("code", [0x7F, 0xFF])
def test_a_block_scale_that_is_no_number_is_refused_by_name(code: int) -> None:
    drawn = Drawn(configs.tiny(), "NVFP4")
    scales = drawn.tensor(f"{EXPERTS}.4.up_proj.weight_scale").clone()
    scales.view(torch.uint8)[7, 3] = code
    with pytest.raises(ScaleError, match=r"experts\.4\.up_proj\.weight_scale: expected block scales that are numbers"):
        Weights(Watched(drawn, **{"4.up_proj.weight_scale": scales})).experts(EXPERTS, "up_proj")


def test_layers_in_several_formats_are_not_merged() -> None:
    source = Watched(Drawn(configs.tiny(), "FP8"))
    weights = Weights(source)
    from workers.engine.quant import Format

    source.formats[QKV[1]] = Format.DENSE
    with pytest.raises(ValueError, match="expected one format, got FP8, dense"):
        weights.merged(QKV)
    with pytest.raises(ValueError, match="expected layers in BF16 or FP8 to merge, got NVFP4"):
        Weights(Drawn(configs.tiny(), "NVFP4")).merged([f"{EXPERTS}.0.up_proj", f"{EXPERTS}.1.up_proj"])


def test_every_page_that_was_read_is_given_back(tiny: Directory) -> None:
    source = Watched(Checkpoint.open(tiny()))
    Weights(source).experts(EXPERTS, "up_proj")
    assert source.released == [f"{EXPERTS}.{at}.up_proj.weight" for at in range(8)]


class Event:
    """Stands for one of the device: never recorded is done."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    def synchronize(self) -> None:
        self.log.append("wait")

    def record(self) -> None:
        self.log.append("record")


@pytest.mark.parametrize("length", [1, 8, 9, 64, 100])
def test_the_ring_copies_in_pieces_and_waits_for_each_buffer(length: int) -> None:
    ring, log = PinnedRing(torch.device("cpu")), []
    ring._slots = [(torch.zeros(8, dtype=torch.uint8), Event(log)) for _ in range(3)]  # type: ignore[misc]
    source = torch.randint(256, (length,), dtype=torch.uint8)
    target = torch.zeros_like(source)
    ring._stream(target, source)
    assert torch.equal(target, source)
    assert log == ["wait", "record"] * -(-length // 8)


def test_the_ring_refuses_another_shape() -> None:
    with pytest.raises(ValueError, match=r"expected \[2\], got \[1\]"):
        PinnedRing(torch.device("cpu")).fill(torch.zeros(2), torch.ones(1))


@pytest.mark.gpu
@pytest.mark.parametrize("algo", ALGOS)
def test_on_the_card_lies_what_lies_in_the_file(tiny: Directory, algo: str | None) -> None:
    source = Checkpoint.open(tiny(algo))
    host, card = Weights(source), Weights(source, "cuda", fp4_cores=False)
    card._ring = PinnedRing(torch.device("cuda"), slots=2, slot_bytes=1000)
    for read in (
        lambda weights: weights.merged(QKV),
        lambda weights: weights.experts(EXPERTS, "down_proj"),
        lambda weights: weights.linear("mlp1.1"),
    ):
        assert torch.equal(dequantise(read(card)).cpu(), dequantise(read(host)))
