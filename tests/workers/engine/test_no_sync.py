from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.workers.engine.no_sync import NoSync, Synced


def put_by_mask(x: Tensor) -> None:
    x[x > 0] = 0


FAULTS: dict[str, Callable[[Tensor], object]] = {
    "item": lambda x: x[0].item(),
    "float": lambda x: float(x[0]),
    "branch": lambda x: bool(x[0] > 0),
    "nonzero": lambda x: x.nonzero(),
    "where": lambda x: torch.where(x > 0),
    "masked_select": lambda x: x.masked_select(x > 0),
    "index by mask": lambda x: x[x > 0],
    "put by mask": put_by_mask,
    "unique": lambda x: x.unique(),
    "bincount": lambda x: x.long().bincount(minlength=4),
    "repeats": lambda x: x.repeat_interleave(torch.ones_like(x).long()),
    "numbers of Python": lambda x: x + torch.tensor([1.0, 2.0, 3.0]),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_waiting_for_the_device_is_refused(fault: str) -> None:
    x = torch.tensor([1.0, -1.0, 2.0])
    with NoSync(), pytest.raises(Synced):
        FAULTS[fault](x)


def test_gathers_sorts_and_constants_are_allowed() -> None:
    x = torch.tensor([1.0, -1.0, 2.0])
    with NoSync():
        order = x.argsort()
        assert x[order].where(x > 0, 0.0).cumsum(0).shape == (3,)
        assert torch.searchsorted(x, torch.arange(3.0)).shape == (3,)
        x[order] = torch.zeros(3)
