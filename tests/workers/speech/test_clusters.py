"""Voice prints into speakers: the same as the plain way, and in memory that does not grow with its square."""

import tracemalloc

import numpy as np
import pytest
from numpy.typing import NDArray

from workers.speech.clusters import MOST_SPEAKERS, centroids, linked

ALONE_S = 5.0


def voices(count: int, each: int, spread: float, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """[count * each, 192] unit vectors about `count` random directions in turn, and whose each is."""
    chance = np.random.default_rng(seed)
    middles = chance.normal(size=(count, 192))
    whose = np.tile(np.arange(count), each)
    found = middles[whose] + spread * chance.normal(size=(count * each, 192))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32), whose


def places(windows: NDArray[np.int64], tracks: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
    return np.stack([windows, np.zeros_like(windows) if tracks is None else tracks], 1)


def told(prints: NDArray[np.float32], found: NDArray[np.float32]) -> list[int]:
    return (prints @ found.T).argmax(1).tolist()


def plain(distance: NDArray[np.float32], threshold: float) -> set[frozenset[int]]:
    """Average linkage as the books have it: join the two nearest groups until none are near."""
    groups = [[index] for index in range(len(distance))]
    while len(groups) > 1:
        pairs = [(i, j) for i in range(len(groups)) for j in range(i)]
        means = [distance[np.ix_(groups[i], groups[j])].mean() for i, j in pairs]
        best = int(np.argmin(means))
        if means[best] > threshold:
            break
        i, j = pairs[best]
        groups[j] += groups.pop(i)
    return {frozenset(group) for group in groups}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("threshold", [0.2, 0.44, 0.7, 2.0])
def test_chains_of_neighbours_join_what_average_linkage_joins(seed: int, threshold: float) -> None:
    chance = np.random.default_rng(seed)
    half = np.triu(chance.uniform(0.05, 1.2, (23, 23)), 1).astype(np.float32)
    distance = half + half.T
    labels = linked(distance, np.ones(23), threshold)
    groups = {frozenset(np.flatnonzero(labels == label).tolist()) for label in set(labels.tolist())}
    assert groups == plain(distance, threshold)


def test_each_voice_is_one_speaker_longest_first() -> None:
    prints, whose = voices(4, 30, 0.5)
    seconds = np.where(whose == 2, 9.0, 1.0)
    found = centroids(prints, places(np.arange(len(prints))), seconds)
    assert len(found) == 4 and np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    names = told(prints, found)
    assert {(name, true) for name, true in zip(names, whose.tolist(), strict=True) if true == 2} == {(0, 2)}
    assert len(set(zip(names, whose.tolist(), strict=True))) == 4


def test_voices_of_one_window_are_held_apart_however_alike() -> None:
    prints = np.tile(voices(1, 1, 0.0)[0], (4, 1))
    seconds = np.full(4, ALONE_S)
    assert len(centroids(prints, places(np.arange(4)), seconds)) == 1
    assert len(centroids(prints, np.array([(0, 0), (0, 1), (1, 0), (1, 2)]), seconds)) == 2
    assert len(centroids(prints, np.array([(0, 0), (0, 0), (1, 2), (1, 2)]), seconds)) == 1


@pytest.mark.parametrize("most", [20, 37, 100])
def test_blocks_find_the_speakers_that_the_whole_finds(most: int) -> None:
    prints, whose = voices(5, 60, 0.6, seed=3)
    where, seconds = places(np.arange(len(prints))), np.full(len(prints), ALONE_S)
    whole, blocks = centroids(prints, where, seconds), centroids(prints, where, seconds, most=most)
    assert len(whole) == len(blocks) == 5
    assert len(set(zip(told(prints, blocks), whose.tolist(), strict=True))) == 5


def test_hours_of_prints_do_not_make_a_matrix_of_them_all() -> None:
    prints, _ = voices(8, 750, 0.6)  # 6,000 prints: 144 MB as a matrix of float32
    where = places(np.arange(len(prints)) // 2, np.arange(len(prints)) % 2)
    seconds = np.full(len(prints), ALONE_S)
    tracemalloc.start()
    found = centroids(prints, where, seconds, most=300)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == 8 and peak < 30e6


def test_prints_that_fit_nowhere_stay_bounded() -> None:
    noise = np.random.default_rng(0).normal(size=(3000, 192)).astype(np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    assert len(centroids(noise, places(np.arange(3000)), np.full(3000, ALONE_S), most=400)) == MOST_SPEAKERS


def test_a_voice_heard_for_an_instant_is_no_speaker_unless_there_is_no_other() -> None:
    prints, whose = voices(2, 10, 0.3)
    seconds = np.where(whose == 0, ALONE_S, 0.1)
    assert len(centroids(prints, places(np.arange(20)), seconds)) == 1
    assert len(centroids(prints[:1], places(np.arange(1)), np.array([0.1]))) == 1
    assert len(centroids(prints[:0], places(np.arange(0)), np.zeros(0))) == 0
