"""The whole model at its real size, weights drawn on the card: loads, admits and runs 96 mixed sequences to the end.

`python -m tests.gpu.full_size [--algo FP8]`. What it says is noise; that everybody ends and the pools are clean is not.
"""

import argparse
import time
from collections import Counter
from dataclasses import replace

import torch

from tests.workers.engine.tiny import make_ask, tokenizer
from workers.engine.checkpoint import configs
from workers.engine.checkpoint.drawn import Drawn
from workers.engine.checkpoint.weights import Weights
from workers.engine.compose import Composer
from workers.engine.media import Image, Sound, Video
from workers.engine.memory.sizes import memory_for
from workers.engine.model.omni import OmniModel
from workers.engine.request import Request, Result
from workers.engine.scheduler import Budgets
from workers.engine.start import build, free_on_card

SEQUENCES = 96
BUDGETS = Budgets(tokens=2048, window=16, context=4096)


def requests(composer: Composer) -> list[Request]:
    """Each a quarter: text, pictures of a page's size, recordings of 20 s, clips of 8 frames."""
    noise = torch.Generator().manual_seed(1)
    picture = Image(torch.randint(0, 256, (3, 800, 600), generator=noise, dtype=torch.uint8))
    recording = Sound(0.1 * (torch.rand(20 * 16_000, generator=noise) - 0.5))
    frames = torch.randint(0, 256, (8, 3, 288, 512), generator=noise, dtype=torch.uint8)
    film = Video(frames, [at / 2 for at in range(8)], None)
    media = [(), (picture,), (recording,), (film,)]
    asks = [
        make_ask(
            str(n),
            "Tell what this is about. " * (1 + n % 7),
            *media[n % 4],
            max_tokens=24 + n % 9,
            temperature=0.7,
            seed=n,
        )
        for n in range(SEQUENCES)
    ]
    return [composer.compose(ask) for ask in asks]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--algo", choices=("FP8", "NVFP4"), default=None)
    algo = parser.parse_args().algo
    drawn = Drawn(configs.reference(), algo, device="cuda")
    began = time.monotonic()
    model = OmniModel.load(Weights(drawn, "cuda"))
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    print(
        f"loaded {algo or 'BF16'} in {time.monotonic() - began:.0f} s: {torch.cuda.memory_allocated() / 2**30:.1f} GiB"
    )
    free = free_on_card(model, drawn.config, BUDGETS, SEQUENCES)
    dtype = getattr(torch, drawn.config.torch_dtype)
    memory = memory_for(
        drawn.config.text, free, window=BUDGETS.window, dtype=dtype, kv_dtype=None, most_slots=SEQUENCES
    )
    budgets = replace(BUDGETS)
    engine = build(drawn.config, model, tokenizer(), memory, budgets, device="cuda")
    asked = requests(Composer(drawn.config, tokenizer(), budgets.context))
    for request in asked:
        engine.add(engine.prepare(request))
    results: list[Result] = []
    began, steps = time.monotonic(), 0
    while not engine.idle:
        results += [event for event in engine.step() if isinstance(event, Result)]
        steps += 1
    torch.cuda.synchronize()
    seconds = time.monotonic() - began
    memory.check()
    tokens = sum(len(one.ids) for one in results)
    prompt = sum(len(one.prompt_ids) for one in asked)
    print(
        f"{len(results)} of {SEQUENCES} ended in {seconds:.1f} s, {steps} steps: {prompt} tokens in, {tokens} out, "
        f"{dict(Counter(one.finish_reason.value for one in results))}, "
        f"peak {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB; pools clean: {memory}"
    )
    assert len(results) == SEQUENCES and not engine.failed
    assert all(one.error is None for one in results), [one.error for one in results if one.error][:3]


if __name__ == "__main__":
    main()
