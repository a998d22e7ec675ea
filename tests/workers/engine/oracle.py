"""The published implementation on the tiny checkpoint, read from the same files as ours.

transformers 5.23.0, with two repairs: the lower limit of a Mamba time step, which its port takes from a key that the
published code uses for initialisation only, and the `model_type` of the sound part, which it does not know.

Source: spec 11.1, 11.23, 12.
"""

from copy import deepcopy
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from transformers import logging
from transformers.models.nemotron_h_omni.configuration_nemotron_h_omni import NemotronH_Omni_Reasoning_V3_Config
from transformers.models.nemotron_h_omni.modeling_nemotron_h_omni import NemotronH_Omni_Reasoning_V3

from workers.engine.checkpoint import configs
from workers.engine.checkpoint.drawn import Drawn
from workers.engine.checkpoint.write import write
from workers.engine.model.omni import OmniModel

IMAGE, SOUND = 18, 27  # placeholders
logging.set_verbosity_error()
logging.disable_progress_bar()


@cache
def drawn() -> Drawn:
    return Drawn(configs.tiny())


@cache
def ours() -> OmniModel:
    return OmniModel.from_tensors(drawn().config, drawn().tensor)


@cache
def published(dtype: torch.dtype = torch.float32) -> NemotronH_Omni_Reasoning_V3:
    return load(drawn(), dtype)


def load(source: Drawn, dtype: torch.dtype, device: str = "cpu") -> NemotronH_Omni_Reasoning_V3:
    """Of any configuration, by way of a directory."""
    raw = deepcopy(source.raw)
    for part in (raw, raw["vision_config"], raw["sound_config"]):
        for key in ("architectures", "auto_map", "model_type"):
            part.pop(key, None)
    config = NemotronH_Omni_Reasoning_V3_Config(**raw)
    config.video_pruning_rate = 0.0
    with TemporaryDirectory() as folder:
        write(source, Path(folder))
        model = NemotronH_Omni_Reasoning_V3.from_pretrained(folder, config=config, dtype=dtype).to(device).eval()
    for module in model.modules():
        if hasattr(module, "time_step_limit"):
            module.time_step_limit = (0.0, float("inf"))
    return model


def logits(ids: list[int], media: Tensor | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """[positions, vocab] of one sequence, its placeholders replaced by the rows of `media` in order."""
    return answer(published(dtype), ids, media)


@torch.no_grad()
def answer(model: NemotronH_Omni_Reasoning_V3, ids: list[int], media: Tensor | None = None) -> Tensor:
    embeddings = model.get_input_embeddings()(torch.tensor([ids], device=model.device))
    if media is not None:
        places = [at for at, one in enumerate(ids) if one in (IMAGE, SOUND)]
        embeddings[0, places] = media.to(embeddings)
    return model.language_model(inputs_embeds=embeddings).logits[0].float()
