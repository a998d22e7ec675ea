"""The same model in the formats of the official repositories, through their tensors and scales."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.workers.engine import oracle
from tests.workers.engine.parity import text
from tests.workers.engine.steps import Steps
from workers.engine.checkpoint import configs
from workers.engine.checkpoint.drawn import Drawn
from workers.engine.checkpoint.expected import table
from workers.engine.checkpoint.formats import Dense, dequantise_fp8, dequantise_nvfp4, quantise_fp8
from workers.engine.checkpoint.weights import Weights
from workers.engine.config import OmniConfig
from workers.engine.kernels.rms_norm import Normed
from workers.engine.kernels.route import Routing
from workers.engine.model import attention, decoder, mamba, moe
from workers.engine.model.omni import OmniModel
from workers.engine.quant import Format


def answer(model: OmniModel, **limits: torch.dtype) -> Tensor:
    """Logits of a prefill in two pieces and of eight steps."""
    steps = Steps(model, window=3, **limits)
    track = steps.track(text(40), slot=1)
    rows = [steps.step(prefills=[(track, count)])[0] for count in (20, 12)]
    return torch.stack(rows + [steps.step(decodes=[track])[0] for _ in range(8)])


def error(got: Tensor, exact: Tensor) -> float:
    """Of the median row: in a few rows any rounding turns the choice of an expert, and with it everything."""
    return float(((got - exact).norm(dim=-1) / exact.norm(dim=-1)).median())


def dequantised(drawn: Drawn) -> OmniModel:
    """With the numbers that the codes stand for."""

    def get(name: str) -> Tensor:
        module, kind = name.rpartition(".")[0], drawn.formats.get(name.rpartition(".")[0], Format.DENSE)
        if kind is Format.DENSE:
            return drawn.tensor(name)
        weight, scale = drawn.tensor(name), drawn.tensor(f"{module}.weight_scale")
        if kind is Format.FP8:
            return dequantise_fp8(weight, scale.reshape(1))
        return dequantise_nvfp4(weight, scale, drawn.tensor(f"{module}.weight_scale_2"))

    return OmniModel.from_tensors(drawn.config, get)


class Simulated:
    """The numbers behind the codes, with activations rounded where and by what the checkpoint says (spec 8.1, 8.2)."""

    def __init__(self, drawn: Drawn) -> None:
        self.drawn, self.model = drawn, dequantised(drawn)
        self.scales: dict[int, Tensor] = {}  # by the address of the weight's numbers
        for at, block in enumerate(self.model.decoder.blocks):
            name, mixer = f"language_model.backbone.layers.{at}.mixer", block.mixer
            match mixer:
                case mamba.Mamba():
                    layers = {"in_proj": mixer.in_proj, "out_proj": mixer.out_proj}
                case attention.Attention():
                    layers = {"q_proj k_proj v_proj": mixer.qkv_proj, "o_proj": mixer.o_proj}
                case moe.Moe():
                    layers = {"shared_experts.up_proj": mixer.shared_up, "shared_experts.down_proj": mixer.shared_down}
                    experts = [f"experts.{expert}" for expert in range(drawn.config.text.n_routed_experts)]
                    layers[" ".join(f"{one}.up_proj" for one in experts)] = mixer.up
                    self._remember(mixer.down, [f"{name}.{one}.down_proj" for one in experts], largest=False)
            for parts, weight in layers.items():
                self._remember(weight, [f"{name}.{part}" for part in parts.split()])

    def _remember(self, weight: Dense, modules: list[str], *, largest: bool = True) -> None:
        if self.drawn.formats[modules[0]] is Format.FP8:
            scales = torch.stack([self.drawn.tensor(f"{module}.input_scale") for module in modules])
            self.scales[weight.weight.data_ptr()] = scales.amax() if largest else scales[:, None, None]

    def _rounded(self, x: Tensor, weight: Tensor) -> Tensor:
        scale = self.scales.get(weight.data_ptr())
        return x if scale is None else quantise_fp8(x, scale).float() * scale

    def linear(self, x: Tensor, weight: Dense) -> Tensor:
        return F.linear(self._rounded(x, weight.weight), weight.weight)

    def experts(self, x: Tensor, routing: Routing, up: Tensor, down: Tensor, shared: Tensor) -> Tensor:
        hidden = F.relu(self._rounded(x, up) @ up.transpose(1, 2)).square()
        out = self._rounded(hidden, down) @ down.transpose(1, 2)
        share = torch.zeros(len(x), len(up)).scatter(1, *routing)
        return torch.einsum("etd,te->td", out, share) + shared


@pytest.mark.parametrize("algo", ["FP8", "NVFP4"])
def test_quantised_layers_compute_what_their_scales_say(algo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = Drawn(configs.tiny(), algo)
    got = answer(OmniModel.load(Weights(drawn)))
    simulated = Simulated(drawn)
    assert len(simulated.scales) == {"FP8": 20, "NVFP4": 13}[algo]
    for module in (attention, mamba, moe):
        monkeypatch.setattr(module, "linear", simulated.linear)
    monkeypatch.setattr(moe, "experts", simulated.experts)
    assert error(got, answer(simulated.model)) < 1e-4


def test_codes_from_the_norm_are_those_of_the_linear_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    model = OmniModel.load(Weights(Drawn(configs.tiny(), "FP8")))
    with_codes = answer(model)

    def values(normed: Normed, *weights: object) -> list[Tensor]:
        return [normed.value for _ in weights]

    monkeypatch.setattr(decoder.Block, "reads_value", True)
    for module in (attention, mamba):
        monkeypatch.setattr(module, "inputs", values)
    assert torch.equal(answer(model), with_codes)


def test_an_e4m3_cache_stays_close() -> None:
    exact = answer(oracle.ours())
    assert 1e-4 < error(answer(oracle.ours(), kv_dtype=torch.float8_e4m3fn), exact) < 0.02


def test_in_bf16_our_error_is_at_most_twice_the_published_one() -> None:
    exact = oracle.logits(text(40))[[19, *range(31, 40)]]
    theirs = oracle.logits(text(40), dtype=torch.bfloat16)[[19, *range(31, 40)]]
    ours = answer(OmniModel.load(Weights(oracle.drawn(), dtype=torch.bfloat16)))
    assert 1e-4 < error(ours, exact) <= 2 * error(theirs, exact)


def test_every_tensor_of_the_published_model_is_read() -> None:
    config = OmniConfig.from_dict(configs.reference())
    names, read = table(config), set()

    def get(name: str) -> Tensor:
        read.add(name)
        return torch.empty(names[name].shape, device="meta")

    OmniModel.from_tensors(config, get, device="meta")
    unread = {name for name, one in names.items() if not one.optional} - read
    assert {name.rpartition(".")[2] for name in unread} == {"num_batches_tracked"}
    assert len(unread) == config.sound.num_hidden_layers
