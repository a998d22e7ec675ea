"""The language model on one card, in the cases of vLLM 0.20.0's table, beside its figures and the card's floor.

    python -m tests.benchmarks.bench_engine [--algo FP8] [--case decode_b256 ...] [--steady audio mixed] [--json FILE]

Weights are drawn; routing is uniform over the experts by a seed, as theirs was: gates as drawn would choose few experts
and flatter the engine. Random token ids, temperature 1, no stop ids, states in fp32. `prefill_s` is a run of its own
that ends with the first token; decode tok/s are those of the rest.
"""

import argparse
import json
import platform
import random
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tests.benchmarks.roof import Floor, Roof
from tests.workers.engine.tiny import tokenizer
from workers.engine.batch import Launch
from workers.engine.checkpoint import configs
from workers.engine.checkpoint.drawn import Drawn
from workers.engine.checkpoint.weights import Weights
from workers.engine.config import OmniConfig
from workers.engine.embeddings import Look
from workers.engine.engine import Engine
from workers.engine.kernels.route import Routing
from workers.engine.memory.sizes import memory_for
from workers.engine.memory.state import State
from workers.engine.model import moe
from workers.engine.model.decoder import Decoder
from workers.engine.output import Outputs
from workers.engine.plan import Plan
from workers.engine.request import Request, Result
from workers.engine.runner import Runner, limits_of
from workers.engine.sampling import SamplingParams
from workers.engine.scheduler import Budgets, Scheduler
from workers.engine.start import free_on_card


@dataclass(frozen=True, slots=True)
class Case:
    """`count` prompts of `prompt` tokens with answers of `out`; vLLM 0.20.0's seconds and seconds of prefill."""

    count: int
    prompt: int
    out: int
    vllm: dict[str, tuple[float, float]]


CASES = {
    "prefill_16x8192": Case(16, 8192, 1, {"BF16": (2.097, 0.0), "FP8": (2.043, 0.0)}),
    "decode_b1": Case(1, 128, 256, {"BF16": (1.514, 0.058), "FP8": (1.055, 0.046)}),
    "decode_b32": Case(32, 128, 256, {"BF16": (7.795, 1.480), "FP8": (4.446, 0.180)}),
    "decode_b128": Case(128, 128, 256, {"BF16": (7.454, 0.308), "FP8": (6.673, 0.312)}),
    "decode_b192": Case(192, 128, 256, {"BF16": (8.947, 0.495)}),
    "decode_b256": Case(256, 128, 256, {"FP8": (8.829, 0.572)}),
    "pdf_256x1500+512": Case(256, 1500, 512, {"BF16": (33.776, 6.013), "FP8": (22.326, 5.981)}),
    "audio_96x3750+1000": Case(96, 3750, 1000, {"BF16": (34.184, 5.651), "FP8": (29.304, 5.577)}),
    "video_16x32768+512": Case(16, 32768, 512, {"BF16": (18.355, 9.470), "FP8": (15.873, 9.124)}),
    "video_16x20480+512": Case(16, 20480, 512, {"BF16": (12.942, 5.535), "FP8": (11.941, 5.442)}),
}
# Units as the product has them: tokens of the prompt and of the answer.
UNITS = {"audio": (3750, 1000), "pages": (1500, 512), "clips": (20480, 512)}
MIXES = {"audio": ["audio"], "pages": ["pages"], "clips": ["clips"], "mixed": ["audio", "audio", "pages", "clips"]}
ROUTES = 1 << 16  # rows of the table from which experts are taken


class Text:
    """The decoder as a model without encoders."""

    def __init__(self, config: OmniConfig, decoder: Decoder) -> None:
        self.config, self._decoder = config, decoder

    def forward(self, launch: Launch, state: State) -> Tensor:
        return self._decoder(launch, state)


def uniform_routing(config: OmniConfig, device: str) -> Callable[..., Routing]:
    """In place of `route`: each layer and row chooses other experts, all equally often. The real work is done too."""
    text, real = config.text, moe.route
    noise = torch.Generator(device).manual_seed(7)
    experts = torch.rand(ROUTES, text.n_routed_experts, device=device, generator=noise)
    experts = experts.topk(text.num_experts_per_tok, dim=-1).indices.int()
    first = iter(range(0, 1 << 40, 977))

    def route(x: Tensor, weight: Tensor, bias: Tensor, **given: Any) -> Routing:
        at = next(first) % (ROUTES - len(x))
        routing = real(x, weight, bias, **given)
        return Routing(experts[at : at + len(x)], routing.weights)

    return route


class Bench:
    """One model in memory; engines come and go."""

    def __init__(self, algo: str, window: int, tokens: int, slots: int, *, graphs: bool) -> None:
        self.algo, self.window, self.tokens, self.slots, self.graphs = algo, window, tokens, slots, graphs
        drawn = Drawn(configs.reference(), None if algo == "BF16" else algo, device="cuda")
        self.config = drawn.config
        began = time.monotonic()
        self.model = Text(drawn.config, Decoder.load(Weights(drawn, "cuda"), drawn.config.text))
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
        moe.route = uniform_routing(drawn.config, "cuda")
        self.kv_dtype = torch.float8_e4m3fn if drawn.config.quant.kv_fp8 else None
        self.roof = Roof(drawn.config.text, algo, window, 1 if self.kv_dtype else 2)
        gib = torch.cuda.memory_allocated() / 2**30
        print(f"{algo}: {gib:.1f} GiB of weights in {time.monotonic() - began:.0f} s", flush=True)
        self.engine, self.memory = self._engine()

    def _engine(self) -> tuple[Engine, Any]:
        text = self.config.text
        budgets = Budgets(tokens=self.tokens, window=self.window, context=36_864)
        free = free_on_card(self.model, self.config, budgets, self.slots, encoders=False)
        memory = memory_for(
            text, free, window=self.window, dtype=torch.bfloat16, kv_dtype=self.kv_dtype, most_slots=self.slots
        )
        state = State.allocate(
            text, limits_of(memory, budgets), dtype=torch.bfloat16, kv_dtype=self.kv_dtype, device="cuda"
        )
        model: Any = self.model
        runner = self.runner = Runner(
            model, state, memory, budgets, vocab_size=text.vocab_size, look=Look.of(self.config)
        )
        if self.graphs:
            runner.capture()
        engine = Engine(runner, Scheduler(memory, budgets), Outputs(tokenizer(), text.vocab_size))
        print(f"  {memory.slots.count} slots, {memory.blocks.count} blocks, chunks of {self.tokens}", flush=True)
        return engine, memory

    def run(self, case: Case, out: int) -> tuple[float, int, float, Floor]:
        """Seconds, steps, the share of them in which the host did not wait for the card, and the floor."""
        numbers, floor, steps = random.Random(1), Floor(), 0
        for n in range(case.count):
            self._add(str(n), numbers, case.prompt, out)
        plans: list[Plan] = []
        launched = self.engine._launch
        self.engine._launch = lambda plan: (plans.append(plan), launched(plan))[1]  # type: ignore[method-assign]
        torch.cuda.synchronize()
        waited, collect = [], self.runner.collect
        self.runner.collect = lambda handle: timed(waited, collect, handle)  # type: ignore[method-assign]
        began, ended = time.monotonic(), 0
        while not self.engine.idle:
            ended += sum(isinstance(event, Result) for event in self.engine.step())
            steps += 1
        torch.cuda.synchronize()
        seconds = time.monotonic() - began
        del self.engine._launch, self.runner.collect
        if self.engine.failed or ended != case.count:
            raise RuntimeError(f"{ended} of {case.count} ended: {self.engine.failed}")
        self.memory.check()
        for plan in plans:
            floor += self.roof.step(plan)
        return seconds, steps, 1 - sum(waited) / seconds, floor

    def measure(self, name: str) -> dict[str, Any]:
        case = CASES[name]
        self.run(Case(case.count, case.prompt, 4, {}), min(4, case.out))  # compiled, and warm
        prefill = self.run(case, 1)[0] if case.out > 1 else 0.0
        seconds, steps, host, floor = self.run(case, case.out)
        said = {
            "case": name, "format": self.algo, "seconds": round(seconds, 3), "prefill_s": round(prefill, 3),
            "tok_s": round(case.count * (case.prompt + case.out) / seconds, 1), "decode_tok_s": None,
            "roof_share": round(floor.seconds / seconds, 3), "tb": round(floor.bytes / 1e12, 2),
            "pflop": round(floor.flop / 1e15, 2), "steps": steps, "host_share": round(host, 2),
            "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1), "vllm_s": None, "ratio": None,
        }  # fmt: skip
        if case.out > 1:
            said["decode_tok_s"] = round(case.count * (case.out - 1) / max(1e-9, seconds - prefill), 1)
        if vllm := case.vllm.get(self.algo if self.algo != "NVFP4" else "FP8"):
            said["vllm_s"] = vllm[0]
            said["ratio"] = round((vllm[0] - vllm[1]) / (seconds - prefill), 2) if name.startswith("decode") else round(
                vllm[0] / seconds, 2
            )  # fmt: skip
        return said

    def steady(self, mix: str, seconds: float, in_flight: int) -> dict[str, Any]:
        """Units arrive as slots free. The first ones end at random, so that nothing goes in waves."""
        numbers, kinds = random.Random(2), cycle(MIXES[mix])
        arrived = finished = counted = decoded = steps = 0
        began = ended = at = time.monotonic()
        lead_s = seconds / 2  # prefill of the first units, which come together, is not counted
        while ended - began < lead_s + seconds:
            while arrived - finished < in_flight:
                prompt, out = UNITS[next(kinds)]
                out = numbers.randrange(1, out) if arrived < in_flight else out
                self._add(f"{mix} {arrived}", numbers, prompt, out)
                arrived += 1
            done = [event for event in self.engine.step() if isinstance(event, Result)]
            finished += len(done)
            ended = time.monotonic()
            if ended - began < lead_s:
                counted, decoded, at = finished, self.engine.stats.decoded, ended
                steps = self.engine.stats.steps
        spent = ended - at
        said = {
            "case": f"steady_{mix}", "format": self.algo, "in_flight": self.engine.load.running,
            "seconds": round(spent, 1), "finished_s": round((finished - counted) / spent, 2),
            "decode_tok_s": round((self.engine.stats.decoded - decoded) / spent),
            "step_ms": round(1000 * spent / max(1, self.engine.stats.steps - steps), 1),
        }  # fmt: skip
        self._end()
        return said

    def profile(self, name: str, steps: int = 8) -> None:
        """Prints what the card does in some steps in the middle of a case."""
        case, numbers = CASES[name], random.Random(3)
        for n in range(case.count):
            self._add(str(n), numbers, case.prompt, max(2, case.out))
        while self.engine.stats.steps and self.engine.load.waiting:
            self.engine.step()
        for _ in range(steps if case.out > 1 else 2):
            self.engine.step()
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
            began = time.monotonic()
            for _ in range(steps):
                self.engine.step()
            torch.cuda.synchronize()
            wall = time.monotonic() - began
        rows = sorted(seen.key_averages(), key=lambda one: -one.self_device_time_total)
        busy = sum(one.self_device_time_total for one in rows) / 1e6
        print(f"  {name}: {steps} steps, {1000 * wall / steps:.2f} ms a step, kernels {100 * busy / wall:.0f} % of it")
        for one in rows[:28]:
            print(f"    {one.self_device_time_total / 1000 / steps:8.3f} ms {one.count / steps:6.1f} x {one.key[:90]}")
        self._end()

    def _end(self) -> None:
        for id in list(self.engine._live):
            self.engine.abort(id)
        while not self.engine.idle:
            self.engine.step()

    def _add(self, id: str, numbers: random.Random, prompt: int, out: int) -> None:
        ids = tuple(numbers.choices(range(1000, self.config.text.vocab_size), k=prompt))
        sampling = SamplingParams(max_tokens=out, stop_ids=(), temperature=1.0, seed=numbers.getrandbits(32))
        self.engine.add(self.engine.prepare(Request(id, ids, sampling)))


def timed(spent: list[float], call: Callable[[Any], Any], argument: Any) -> Any:
    began = time.monotonic()
    result = call(argument)
    spent.append(time.monotonic() - began)
    return result


def commit() -> str:
    command = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--algo", choices=("BF16", "FP8", "NVFP4"), default="FP8")
    parser.add_argument("--case", choices=CASES, nargs="*", default=list(CASES))
    parser.add_argument("--window", type=int, default=8, help="tokens for which a state is written once")
    parser.add_argument("--tokens", type=int, default=8192, help="of one step")
    parser.add_argument("--slots", type=int, default=512, help="sequences at most")
    parser.add_argument("--steady", choices=MIXES, nargs="*", default=[], help="as the product runs")
    parser.add_argument("--seconds", type=float, default=30.0, help="of each steady state that are counted")
    parser.add_argument("--in-flight", type=int, default=400)
    parser.add_argument("--json", type=Path, help="keep the figures in this file")
    parser.add_argument("--profile", choices=CASES, nargs="*", default=[], help="which kernels some steps consist of")
    parser.add_argument("--eager", action="store_true", help="launch every kernel of every step")
    given = parser.parse_args()
    torch.manual_seed(0)
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, Python {platform.python_version()}, {commit()}")
    bench, rows = Bench(given.algo, given.window, given.tokens, given.slots, graphs=not given.eager), []
    runs = [partial(bench.measure, name) for name in given.case]
    runs += [partial(bench.steady, mix, given.seconds, given.in_flight) for mix in given.steady]
    for run in runs:
        try:
            rows.append(run())
            print(
                "  " + ", ".join(f"{key} {value}" for key, value in rows[-1].items() if value is not None), flush=True
            )
        except (RuntimeError, torch.OutOfMemoryError) as error:
            print(f"  {run.args}: {type(error).__name__}: {str(error)[:300]}", flush=True)
    for name in given.profile:
        bench.profile(name)
    if given.json:
        card = {"gpu": torch.cuda.get_device_name(), "torch": torch.__version__, "window": given.window}
        cases = [{**row, "tokens_a_step": given.tokens, "commit": commit()} for row in rows]
        given.json.write_text(json.dumps({**card, "cases": cases}, indent=1) + "\n")


if __name__ == "__main__":
    main()
