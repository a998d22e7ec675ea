"""How a kernel is timed: in a CUDA graph over sets of inputs that the L2 cache does not hold together."""

import sys
from collections.abc import Callable, Sequence

import torch

COPY = 3.03e12  # bytes a second, measured
COLD = 200e6  # bytes of all sets of inputs
Call = Callable[..., object]


def line(
    name: str,
    sets: Sequence[tuple],
    moved: float,
    theirs: Call | None,
    candidates: dict[str, Call],
    widths: tuple[int, int],
) -> None:
    """Times every candidate; one that fails says why, and the others go on.

    Args:
        moved: bytes.
        theirs: what torch would do.
        widths: of the first two columns.
    """
    times: dict[str, float] = {}
    for label, call in {**candidates, **({"torch": theirs} if theirs else {})}.items():
        try:
            times[label] = graphed(call, sets)
        except Exception as error:
            print(f"  {name}, {label}: {type(error).__name__}: {str(error)[:200]}")
    other = f"{times.pop('torch'):8.1f}" if "torch" in times else " " * 8
    best = min(times.values(), default=float("nan"))
    shown = "  ".join(f"{label} {us:.1f}" for label, us in times.items())
    first, second = widths
    print(
        f"{name:{first}} {shown:{second}} {other} {moved / best / 1e3:6.0f} {moved / COPY * 1e6 / best:8.0%}",
        flush=True,
    )


def graphed(call: Call, sets: Sequence[tuple], replays: int = 7) -> float:
    """Microseconds of one call: the median of replays of a graph that runs it on every set."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for one in sets[:2]:
            call(*one)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for one in sets:
            call(*one)
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(replays + 1)]
    for start, end in events:
        start.record()
        graph.replay()
        end.record()
    torch.cuda.synchronize()
    return sorted(start.elapsed_time(end) for start, end in events[1:])[replays // 2] / len(sets) * 1e3


def sets_of(make: Callable[[], tuple], size: float, most: int = 24) -> list[tuple]:
    return [make() for _ in range(max(2, min(most, round(COLD / size) + 1)))]


def must(name: str, holds: bool, said: str) -> None:
    print(f"{'ok   ' if holds else 'WRONG'} {name}: {said}", flush=True)
    if not holds:
        sys.exit(1)
