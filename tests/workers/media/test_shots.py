"""What is a cut and what is not, on thumbnails made here."""

import numpy as np

from workers.media.shots import THUMB_HEIGHT_PX, THUMB_WIDTH_PX, Comparer, cuts

random = np.random.default_rng(7)


def scene(seed: int) -> np.ndarray:
    """[36, 64, 3] float: soft blobs of colour."""
    noise = np.random.default_rng(seed).uniform(0, 255, (5, 9, 3))
    return np.kron(noise, np.ones((8, 8, 1)))[:THUMB_HEIGHT_PX, :THUMB_WIDTH_PX]


def still(seed: int, count: int) -> list[np.ndarray]:
    return [scene(seed) + random.normal(0, 2, (THUMB_HEIGHT_PX, THUMB_WIDTH_PX, 3)) for _ in range(count)]


def pan(seed: int, count: int, step: int = 2) -> list[np.ndarray]:
    return [np.roll(scene(seed), index * step, axis=1) for index in range(count)]


def found(frames: list[np.ndarray], batch: int = 1000) -> list[int]:
    thumbs = np.clip(np.stack(frames), 0, 255).astype(np.uint8)
    comparer = Comparer()
    return cuts(np.concatenate([comparer.rows(thumbs[at : at + batch]) for at in range(0, len(thumbs), batch)]))


def test_a_cut_is_the_first_frame_of_the_new_shot() -> None:
    assert found([*still(1, 20), *still(2, 20), *still(3, 9)]) == [20, 40]


def test_batches_change_nothing() -> None:
    frames = [*still(1, 20), *pan(2, 30), *still(3, 9)]
    assert found(frames, batch=7) == found(frames) == [20, 50]


def test_a_moving_camera_is_no_cut() -> None:
    assert found(pan(4, 60)) == []


def test_a_flash_is_no_cut() -> None:
    for length in (1, 2, 3):
        bright = [np.full((THUMB_HEIGHT_PX, THUMB_WIDTH_PX, 3), 255.0)] * length
        assert found([*still(5, 20), *bright, *still(5, 20)]) == [], length


def test_a_flash_that_dies_away_is_no_cut() -> None:
    dying = [scene(5) * (1 - share) + 255 * share for share in (1, 0.66, 0.33)]
    assert found([*still(5, 20), *dying, *still(5, 20)]) == []


def test_a_dissolve_is_no_cut() -> None:
    mixed = [scene(6) * (1 - share) + scene(7) * share for share in np.linspace(0, 1, 25)]
    assert found([*still(6, 20), *mixed, *still(7, 20)]) == []


def test_one_blended_frame_between_shots_is_one_cut() -> None:
    assert found([*still(8, 20), (scene(8) + scene(9)) / 2, *still(9, 20)]) == [21]


def test_a_cut_between_dark_scenes_is_found() -> None:
    dark = [frame / 12 for frame in (*still(1, 15), *still(2, 15))]
    assert found(dark) == [15]


def test_a_frame_alone_has_no_cut() -> None:
    assert found(still(1, 1)) == []
