"""The steps that are measured on a card are steps that the model can run."""

import pytest
import torch

from tests.workers.engine import oracle
from workers.engine.features.grids import Grid
from workers.engine.memory import workspace
from workers.engine.scheduler import Budgets


@pytest.mark.parametrize("what", ["step", "draw", "encode"])
def test_what_is_measured_can_be_run(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, config = oracle.ours(), oracle.drawn().config
    seen: list[tuple[int, ...]] = []
    with torch.no_grad():
        match what:
            case "step":
                forward = type(model).forward
                monkeypatch.setattr(
                    type(model), "forward", lambda *given: seen.append((given[1].shape.tokens,)) or forward(*given)
                )
                workspace._step(model, config, Budgets(tokens=300), "cpu")
                assert seen == [(300,)]
            case "draw":
                workspace._draw(config.text.vocab_size, 3, "cpu")
            case _:
                monkeypatch.setattr(workspace, "MOST_CLIPS", 2)
                images = type(model).encode_images
                monkeypatch.setattr(
                    type(model), "encode_images", lambda *given: seen.append(given[1].shape) or images(*given)
                )
                workspace._encode(model, config, "cpu")
                side = int(config.vision.max_num_patches**0.5) // 2 * 2
                assert seen == [(Grid(side, side).patches, config.vision.patch_dim)]
