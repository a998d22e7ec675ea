"""What weights would be on this machine, said from their configuration alone: their format, and whether they fit.

    echo '[{"directory": "DIR", "weights_bytes": 33000000000}]' | python -m workers.engine.checkpoint.forecast

DIR holds config.json (and hf_quant_config.json, if there is one); no tensor needs to be there yet. The answer is a JSON
list in the same order. Needs no torch; with it, it knows the card that is here.
"""

import json
import sys
from pathlib import Path
from typing import Any

from workers.engine.checkpoint.card import fits
from workers.engine.checkpoint.survey import narrowest
from workers.engine.config import OmniConfig
from workers.engine.quant import Format, QuantConfig
from workers.engine.sections import ConfigError


def forecast(directory: Path, weights_bytes: int) -> dict[str, Any]:
    """Format, KV cache and card.

    Raises:
        ConfigError: the configuration is absent, or names another model.
    """
    config = OmniConfig.from_dir(directory)
    return {
        "format": narrowest(_recorded(config.quant)),
        "kv_cache": "FP8" if config.quant.kv_fp8 else config.torch_dtype,
        "card": fits(config, weights_bytes),
    }


def _recorded(quant: QuantConfig) -> set[Format]:
    named = {Format(quant.algo)} if quant.algo in (Format.FP8, Format.NVFP4) else set()
    return named | set(quant.layers.values())


def _answer(asked: dict[str, Any]) -> dict[str, Any]:
    try:
        return forecast(Path(asked["directory"]), asked["weights_bytes"])
    except ConfigError as error:
        return {"error": {"message": str(error)}}


def main() -> None:
    json.dump([_answer(asked) for asked in json.load(sys.stdin)], sys.stdout)


if __name__ == "__main__":
    main()
