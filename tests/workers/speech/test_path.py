import numpy as np

from workers.speech.path import best_path


def frames(spoken: list[int], count: int = 4) -> np.ndarray:
    """[T, count] log-probabilities that name one label (0 is blank) a frame."""
    out = np.full((len(spoken), count), -8.0, np.float32)
    out[np.arange(len(spoken)), spoken] = -0.01
    return out


def free(labels: list[int], length: int) -> tuple[np.ndarray, np.ndarray]:
    return np.zeros(len(labels), np.int64), np.full(len(labels), length - 1)


def test_labels_lie_where_the_frames_name_them() -> None:
    heard = frames([0, 1, 1, 0, 2, 0, 0, 3, 0])
    path = best_path(heard, np.array([1, 2, 3]), 0, *free([1, 2, 3], 9))
    assert path and path.first.tolist() == [1, 4, 7] and path.last.tolist() == [2, 4, 7]
    assert path.probability.min() > 0.9


def test_the_same_label_twice_needs_a_blank_between() -> None:
    assert best_path(frames([1, 1]), np.array([1, 1]), 0, *free([1, 1], 2)) is None
    path = best_path(frames([1, 0, 1]), np.array([1, 1]), 0, *free([1, 1], 3))
    assert path and path.first.tolist() == [0, 2]


def test_a_band_keeps_a_label_in_its_place() -> None:
    heard = frames([1, 0, 0, 0, 0, 1, 0, 0])
    path = best_path(heard, np.array([1]), 0, np.array([3]), np.array([7]))
    assert path and path.first.tolist() == [5]


def test_more_labels_than_frames_have_no_path() -> None:
    assert best_path(frames([1, 2]), np.array([1, 2, 3]), 0, *free([1, 2, 3], 2)) is None
    assert best_path(frames([1, 2, 0]), np.array([1, 2]), 0, np.array([0, 0]), np.array([0, 0])) is None


def test_a_band_as_wide_as_everything_changes_nothing() -> None:
    random = np.random.default_rng(3)
    heard = np.log(random.dirichlet(np.ones(6), 80)).astype(np.float32)
    labels = random.integers(1, 6, 20)
    wide = best_path(heard, labels, 0, *free(labels.tolist(), 80))
    assert wide
    narrow = best_path(heard, labels, 0, wide.first - 2, wide.last + 2)
    assert narrow and narrow.first.tolist() == wide.first.tolist() and narrow.last.tolist() == wide.last.tolist()
