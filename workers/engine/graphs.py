"""Forward passes of steps in which everybody decodes, captured once and replayed: one launch for five hundred.

A graph belongs to a number of sequences; a step takes the next larger one and pads. It reads the batch's tensors, which
lie at fixed addresses, and every bound that the host knows is the engine's largest: kernels stop at what they find on
the device. All graphs share one memory: they run one after another, and of each only the logits are read.
"""

from bisect import bisect_left
from typing import Protocol

import torch
from torch import Tensor

from workers.engine.batch import Batch, Launch
from workers.engine.memory.state import State

WARM_UPS = 2  # kernels are compiled and loaded before the capture


class Forward(Protocol):
    def forward(self, launch: Launch, state: State) -> Tensor: ...


def sizes_up_to(most: int) -> list[int]:
    """Sequences of each graph: close together where a step is short, an eighth apart where it is long."""
    sizes = [1, 2, 4]
    while sizes[-1] < most:
        last = sizes[-1]
        sizes.append(last + max(4, 1 << (last.bit_length() - 3)))
    return [size for size in sizes if size < most] + [most]


class Graphs:
    """Captures when made.

    Args:
        most: sequences of the largest graph.
    """

    def __init__(self, model: Forward, state: State, batch: Batch, most: int) -> None:
        self._batch, self.sizes = batch, sizes_up_to(most)
        self._graphs: dict[int, torch.cuda.CUDAGraph] = {}
        self._pool = torch.cuda.graph_pool_handle()
        self._logits = self._warm(model, state, self.sizes[-1])
        for size in reversed(self.sizes):  # the largest first: smaller ones fit into its memory
            self._graphs[size] = self._capture(model, state, size)

    def size_for(self, sequences: int) -> int | None:
        """The least graph that holds them."""
        at = bisect_left(self.sizes, sequences)
        return self.sizes[at] if at < len(self.sizes) else None

    def replay(self, size: int) -> Tensor:
        """Logits [size, vocab] of what the batch holds, good until the next replay."""
        self._graphs[size].replay()
        return self._logits[:size]

    def _warm(self, model: Forward, state: State, size: int) -> Tensor:
        for _ in range(WARM_UPS):
            logits = model.forward(self._batch.padding(size), state)
        torch.cuda.synchronize()
        return logits.clone()

    def _capture(self, model: Forward, state: State, size: int) -> torch.cuda.CUDAGraph:
        launch, graph = self._batch.padding(size), torch.cuda.CUDAGraph()
        model.forward(launch, state)  # another size may be another kernel
        torch.cuda.synchronize()
        # Threads that prepare media may allocate meanwhile.
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            self._logits[:size].copy_(model.forward(launch, state))
        return graph
