"""A model of three lines that notices every mistake of an engine, with the protocol of the real one.

What a token means depends on all before it, twice: on a state by slot (with windows, written back as the real one is)
and on a cache by block. A wrong slot, block, window, position, row or chunk gives another hash and so another answer.

    h_t = mix(h_{t-1}, value_t)        a_t = sum over p <= t of (p + 1) value_p        logits = noise(h_t, a_t)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from workers.engine.batch import Launch
from workers.engine.features.grids import Grid
from workers.engine.features.mel import Mel
from workers.engine.memory.state import Limits

VOCAB = 1280
PRIME = 2**31 - 1


@dataclass
class FakeState:
    history: list[int]
    window: list[list[int]]
    kv: list[int]
    last_token: Tensor
    media: Tensor

    @classmethod
    def allocate(cls, limits: Limits) -> "FakeState":
        return cls(
            history=[13] * limits.slots,
            window=[[17] * limits.window for _ in range(limits.slots)],
            kv=[19] * limits.blocks * limits.block,
            last_token=torch.full((limits.slots,), 23),
            media=torch.full((limits.media_rows, 1), torch.nan),
        )


class FakeModel:
    """
    Attributes:
        faults: what the next calls raise, by the name of the method.
    """

    def __init__(self, block: int) -> None:
        self.block = block
        self.faults: dict[str, list[Exception]] = {}

    def forward(self, launch: Launch, state: FakeState) -> Tensor:
        self._fault("forward")
        starts, slots = launch.query_start.tolist(), launch.state_slot.tolist()
        values = self._values(launch, state, starts, slots)
        rows = []
        for at, slot in enumerate(slots):
            mine = values[starts[at] : starts[at + 1]]
            for value, kv_slot in zip(mine, launch.kv_slot[starts[at] : starts[at + 1]].tolist(), strict=True):
                state.kv[kv_slot] = value
            h = self._remember(launch, state, at, slot, mine)
            table = launch.block_table[at].tolist()
            places = [table[p // self.block] * self.block + p % self.block for p in range(launch.context_len[at])]
            read = [state.kv[place] for place in places]
            rows.append((h, sum((p + 1) * value for p, value in enumerate(read)) % PRIME))
        sampled = {starts[at + 1] - 1: row for at, row in enumerate(rows)}
        self._fault("after")
        return noise([sampled[row] for row in launch.sample_row.tolist()])

    def encode_images(self, patches: Tensor, grids: list[Grid]) -> Tensor:
        """[patches, numbers] into [tokens, 1]: the first number of every four patches."""
        self._fault("encode")
        return fake_row(patches[::4, :1])

    def encode_video(self, tubelets: Tensor, grid: Grid) -> Tensor:
        return self.encode_images(tubelets.flatten(0, 1), [grid]).unflatten(0, (len(tubelets), -1))

    def encode_sound(self, mel: Mel) -> Tensor:
        self._fault("encode")
        return mel.frames[0, ::8, :1] + 2

    def _values(self, launch: Launch, state: FakeState, starts: list[int], slots: list[int]) -> list[int]:
        values = launch.token_ids.tolist()
        for at in range(launch.shape.decodes):
            if values[starts[at]] == -1:
                values[starts[at]] = int(state.last_token[slots[at]])
        for row, media in enumerate(launch.media_row.tolist()):
            if media >= 0:
                values[row] = 5000 + int(state.media[media, 0])
        return values

    def _remember(self, launch: Launch, state: FakeState, at: int, slot: int, values: list[int]) -> int:
        length = int(launch.window_len[at])
        h = state.history[slot] if launch.has_initial_state[at] else 0
        h = fold(h, state.window[slot][:length] + values)
        if launch.flush[at]:
            state.history[slot] = h
        else:
            state.window[slot][length] = values[0]
        return h

    def _fault(self, name: str) -> None:
        if self.faults.get(name):
            error = self.faults[name].pop(0)
            if error is not None:
                raise error


def fake_row(numbers: Tensor) -> Tensor:
    """-0.5..0.5 into whole numbers of both signs."""
    return (numbers * 510).round()


def fold(h: int, values: list[int]) -> int:
    for value in values:
        h = (h * 48271 + value + 1) % PRIME
    return h


def noise(rows: list[tuple[int, int]]) -> Tensor:
    """[S, vocab] f32 in 0..9, text a little likelier than control tokens."""
    base = torch.tensor([(h * 40503 + a * 69621) % PRIME for h, a in rows], dtype=torch.int64)[:, None]
    x = (base + torch.arange(VOCAB) * 7919) * 48271 % PRIME
    x = (x ^ (x >> 13)) * 69621 % PRIME
    return (x % 65536).float() / 8192 + (torch.arange(VOCAB) >= 1000)


def naive(values: list[int]) -> Tensor:
    """[vocab]: logits behind the last of `values`, with no engine at all."""
    return noise([(fold(0, values), sum((p + 1) * value for p, value in enumerate(values)) % PRIME)])[0]
