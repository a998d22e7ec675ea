import numpy as np
import pytest
import torch

from workers.engine.kernels.philox import philox4x32, uniform

# The known answers that come with the authors' Random123 library (kat_vectors, philox 4 32 10).
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def words(text: str) -> tuple[torch.Tensor, ...]:
    return tuple(torch.tensor([int(word, 16)]) for word in text.split())


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_words_are_those_of_the_authors(counter: str, key: str, result: str) -> None:
    assert [f"{int(word):08x}" for word in philox4x32(words(counter), words(key))] == result.split()


def test_words_are_those_of_whole_numbers_without_bounds() -> None:
    rng = np.random.default_rng(0)
    counter, key = rng.integers(0, 2**32, (4, 200)), rng.integers(0, 2**32, (2, 200))
    ours = philox4x32(tuple(map(torch.from_numpy, counter)), tuple(map(torch.from_numpy, key)))
    for at in range(200):
        assert [int(word[at]) for word in ours] == by_integers(counter[:, at].tolist(), key[:, at].tolist())


def by_integers(c: list[int], k: list[int]) -> list[int]:
    for _ in range(10):
        first, second = 0xD2511F53 * c[0], 0xCD9E8D57 * c[2]
        c = [(second >> 32) ^ c[1] ^ k[0], second % 2**32, (first >> 32) ^ c[3] ^ k[1], first % 2**32]
        k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
    return c


def test_every_bit_of_seed_and_position_counts() -> None:
    bits = torch.tensor([0, *(1 << bit for bit in range(63)), -(1 << 63)])
    zeros = torch.zeros_like(bits)
    assert len(set(uniform(bits, zeros).tolist())) == len(bits)
    assert len(set(uniform(zeros, bits).tolist())) == len(bits)


def test_numbers_are_even_in_the_unit_interval() -> None:
    draws = uniform(torch.full((100_000,), 7), torch.arange(100_000))
    assert draws.dtype == torch.float64
    assert float(draws.min()) >= 0
    assert float(draws.max()) < 1
    # Standard errors: 0.0009 of the mean, 0.0003 of the variance; neighbours: 0.003 of the correlation.
    assert float(draws.mean()) == pytest.approx(1 / 2, abs=0.004)
    assert float(draws.var()) == pytest.approx(1 / 12, abs=0.002)
    assert abs(float(torch.corrcoef(torch.stack([draws[1:], draws[:-1]]))[0, 1])) < 0.013
