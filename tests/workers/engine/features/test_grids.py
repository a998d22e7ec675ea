import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from workers.engine.features.grids import Grid, frame_grid, image_grid, image_grids, square_grid

# Width, height, rows, columns, tokens at the largest budget: the table of spec 3.3.
IMAGES = [
    (224, 224, 32, 32, 256),
    (64, 32, 24, 46, 276),
    (48, 32, 24, 46, 276),
    (512, 512, 32, 32, 256),
    (1000, 500, 32, 64, 512),
    (500, 1000, 64, 32, 512),
    (1024, 1024, 64, 64, 1024),
    (1275, 1650, 104, 80, 2080),
    (1536, 1536, 96, 96, 2304),
    (1920, 1080, 68, 120, 2040),
    (3840, 2160, 86, 154, 3311),
    (10000, 10000, 114, 116, 3306),
]
# Width, height, rows, columns, tokens: spec 3.5.
FRAMES = [
    (512, 512, 32, 32, 256),
    (640, 360, 24, 42, 252),
    (1280, 720, 24, 42, 252),
    (1920, 1080, 24, 42, 252),
    (1080, 1920, 42, 24, 252),
    (640, 480, 28, 36, 252),
    (3760, 1120, 16, 58, 232),
]


@pytest.mark.parametrize(("width_px", "height_px", "rows", "columns", "tokens"), IMAGES)
def test_images_have_the_published_grids(width_px: int, height_px: int, rows: int, columns: int, tokens: int) -> None:
    grid = image_grid(height_px, width_px, budget=13312)
    assert grid == Grid(rows, columns)
    assert grid.tokens == tokens


@pytest.mark.parametrize(("width_px", "height_px", "rows", "columns", "tokens"), FRAMES)
def test_frames_have_the_published_grids(width_px: int, height_px: int, rows: int, columns: int, tokens: int) -> None:
    grid = frame_grid(height_px, width_px)
    assert grid == Grid(rows, columns)
    assert grid.tokens == tokens


@pytest.mark.parametrize(("text_tokens", "tokens"), [(10, 1344), (0, 1323)])
def test_images_of_one_prompt_shrink_together(text_tokens: int, tokens: int) -> None:
    grids = image_grids([(1080, 1920)] * 3, text_tokens=text_tokens, context=4096)
    assert [grid.tokens for grid in grids] == [tokens] * 3


def test_images_that_cannot_fit_get_the_least() -> None:
    assert [grid.tokens for grid in image_grids([(512, 512)] * 9, text_tokens=0, context=1024)] == [256] * 9


@given(st.integers(1, 6000), st.integers(1, 6000))
def test_a_grid_is_even_and_within_its_budget(height_px: int, width_px: int) -> None:
    assume(max(height_px, width_px) < 300 * min(height_px, width_px))  # of a sliver two rows alone may pass the budget
    grid = image_grid(height_px, width_px, budget=13312)
    assert grid.rows % 2 == grid.columns % 2 == 0
    assert 1024 <= grid.patches <= 13312


def test_square_frames_are_square() -> None:
    assert square_grid(target=1024) == Grid(32, 32)
    assert square_grid(target=1000) == Grid(30, 30)


@pytest.mark.parametrize("size_px", [(0, 5), (5, 0)])
def test_an_empty_picture_is_refused(size_px: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1 x 1"):
        image_grid(*size_px, budget=1024)
    with pytest.raises(ValueError, match="at least 1 x 1"):
        frame_grid(*size_px)


def test_a_sliver_that_cannot_be_shown_is_refused() -> None:
    with pytest.raises(ValueError, match="sides that 1024 patches can show, got 1 x 90000"):
        image_grid(1, 90000, budget=1024)
