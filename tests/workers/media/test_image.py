"""Picture files of every kind: upright, in true colours, page by page."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from PIL import Image

from omni_jobs.errors import SourceError
from omni_jobs.job import Medium
from workers.inputs import CanonicalPage
from workers.media import image, probe
from workers.media.document import PageFailure
from workers.media.sandbox import Limits

Opened = Callable[[Path], BinaryIO]


def shown(page: object) -> np.ndarray:
    assert isinstance(page, CanonicalPage), page
    return np.asarray(Image.open(io.BytesIO(page.jpeg))).astype(int)


def halves(mode: str = "RGB") -> Image.Image:
    """Red on the left, blue on the right, 60 x 40."""
    picture = Image.new("RGB", (60, 40), "blue")
    picture.paste("red", (0, 0, 30, 40))
    return picture.convert(mode)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF", "AVIF"])
def test_each_format_opens_whatever_its_name(format: str, tmp_path: Path, opened: Opened, limits: Limits) -> None:
    path = tmp_path / "picture.mp3"
    halves().save(path, format, quality=95)
    source = opened(path)
    found = probe.probe(source, limits)
    assert (found.medium, found.container, found.pages) == (Medium.IMAGE, format.lower(), 1)
    (page,) = image.page(source, limits)
    pixels = shown(page)
    assert np.abs(pixels[20, 10] - (254, 0, 0)).max() < 30
    assert np.abs(pixels[20, 50] - (0, 0, 254)).max() < 30


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_deflate", "group4", "jpeg"])
def test_a_tiff_gives_each_of_its_pages(compression: str, tmp_path: Path, opened: Opened, limits: Limits) -> None:
    path = tmp_path / "pages.tif"
    mode = "1" if compression == "group4" else "RGB"
    first, *rest = [Image.new("L", (40 + index, 30), 255 * (index % 2)).convert(mode) for index in range(4)]
    first.save(path, "TIFF", save_all=True, append_images=rest, compression=compression)
    source = opened(path)
    assert probe.probe(source, limits).pages == 4
    found = list(image.page(source, limits))
    assert [page.page for page in found] == [1, 2, 3, 4]
    assert [shown(page).mean() > 128 for page in found] == [False, True, False, True]
    assert [page.width_px for page in found if isinstance(page, CanonicalPage)] == [40, 41, 42, 43]


def directory_offsets(data: bytes) -> list[int]:
    """Of a little-endian TIFF."""
    found = [int.from_bytes(data[4:8], "little")]
    while True:
        entries = int.from_bytes(data[found[-1] : found[-1] + 2], "little")
        end = found[-1] + 2 + 12 * entries
        if not (following := int.from_bytes(data[end : end + 4], "little")):
            return found
        found.append(following)


def make_tiff(path: Path, compression: str = "tiff_lzw") -> bytearray:
    """Four pages 40, 41, 42 and 43 wide."""
    noise = np.random.default_rng(0).integers(0, 255, (30, 43, 3), np.uint8)
    first, *rest = [Image.fromarray(noise[:, : 40 + index]) for index in range(4)]
    first.save(path, "TIFF", save_all=True, append_images=rest, compression=compression)
    return bytearray(path.read_bytes())


def widths(source: BinaryIO, limits: Limits) -> list[int | None]:
    """Of each page in order; None where it failed."""
    found: dict[int, int | None] = {}
    for page in image.page(source, limits):
        found[page.page] = page.width_px if isinstance(page, CanonicalPage) else found.get(page.page)
    assert list(found) == sorted(found)
    return list(found.values())


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
@pytest.mark.parametrize("page", [1, 3, 4])
@pytest.mark.parametrize("damage", ["type", "bits", "zero"])
def test_a_damaged_page_of_a_tiff_hides_no_other(
    damage: str, page: int, compression: str, tmp_path: Path, opened: Opened, limits: Limits
) -> None:
    path = tmp_path / "pages.tif"
    data = make_tiff(path, compression)
    at = directory_offsets(data)[page - 1] + 2
    entries = int.from_bytes(data[at - 2 : at], "little")
    for entry in range(at, at + 12 * entries, 12):
        tag = int.from_bytes(data[entry : entry + 2], "little")
        if damage == "type" and tag == 256:  # the width is text
            data[entry + 2 : entry + 4] = (2).to_bytes(2, "little")
        elif damage == "bits" and tag == 262:  # a colour space that is none
            data[entry + 8 : entry + 10] = (77).to_bytes(2, "little")
        elif damage == "zero":  # no tag is known
            data[entry : entry + 2] = (60_000).to_bytes(2, "little")
    path.write_bytes(data)
    source = opened(path)
    assert probe.probe(source, limits).pages == 4
    assert widths(source, limits) == [None if number == page else 39 + number for number in range(1, 5)]


def test_a_tiff_that_is_cut_off_gives_the_pages_before(tmp_path: Path, opened: Opened, limits: Limits) -> None:
    path = tmp_path / "pages.tif"
    data = make_tiff(path)
    path.write_bytes(data[: directory_offsets(data)[3] - 1])
    found = widths(opened(path), limits)
    assert (found[:2], found[3:]) == ([40, 41], [None])


def test_a_loop_of_pages_ends(tmp_path: Path, opened: Opened, limits: Limits) -> None:
    path = tmp_path / "pages.tif"
    data = make_tiff(path)
    offsets = directory_offsets(data)
    end = offsets[3] + 2 + 12 * int.from_bytes(data[offsets[3] : offsets[3] + 2], "little")
    data[end : end + 4] = offsets[1].to_bytes(4, "little")
    path.write_bytes(data)
    assert widths(opened(path), limits) == [40, 41, 42, 43]


@pytest.mark.parametrize(("orientation", "rotation"), [(1, 0), (3, 180), (6, 90), (8, 270)])
def test_exif_turns_the_picture_upright(
    orientation: int, rotation: int, tmp_path: Path, opened: Opened, limits: Limits
) -> None:
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = orientation
    halves().rotate(rotation, expand=True).save(path, "JPEG", exif=exif, quality=95)
    (page,) = image.page(opened(path), limits)
    assert isinstance(page, CanonicalPage)
    assert (page.width_px, page.height_px, page.rotation) == (60, 40, rotation)
    assert np.abs(shown(page)[20, 10] - (254, 0, 0)).max() < 30


@pytest.mark.parametrize("kind", ["transparent", "palette", "sixteen", "cmyk", "float", "grey-alpha"])
def test_unusual_pixels_become_plain_ones(kind: str, tmp_path: Path, opened: Opened, limits: Limits) -> None:
    path, expected = tmp_path / "odd", 255
    match kind:
        case "transparent":
            Image.new("RGBA", (20, 20), (255, 0, 0, 0)).save(path, "PNG")
        case "grey-alpha":
            Image.new("LA", (20, 20), (0, 0)).save(path, "PNG")
        case "palette":
            Image.new("RGB", (20, 20), "white").convert("P").save(path, "PNG", transparency=3)
        case "sixteen":
            Image.fromarray(np.full((20, 20), 40_000, np.uint16)).save(path, "PNG")
            expected = 40_000 >> 8
        case "cmyk":
            Image.new("CMYK", (20, 20), (0, 0, 0, 127)).save(path, "JPEG", quality=95)
            expected = 128
        case "float":
            ramp = np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)
            Image.fromarray(ramp).save(path, "TIFF")
            expected = 127
    (page,) = image.page(opened(path), limits)
    assert shown(page).mean() == pytest.approx(expected, abs=3)


def test_a_cut_off_jpeg_gives_what_there_is_and_says_so(tmp_path: Path, opened: Opened, limits: Limits) -> None:
    path = tmp_path / "cut.jpg"
    noise = np.random.default_rng(1).integers(0, 255, (200, 200, 3), np.uint8)
    Image.fromarray(noise).save(path, "JPEG")
    path.write_bytes(path.read_bytes()[:15_000])
    page, failure = image.page(opened(path), limits)
    assert shown(page)[:40].std() > 20
    assert isinstance(failure, PageFailure)
    assert (failure.page, failure.problem.type, failure.partial) == (1, "unreadable", True)


def test_a_large_picture_is_handed_on_smaller(tmp_path: Path, opened: Opened, limits: Limits) -> None:
    path = tmp_path / "large.png"
    Image.new("L", (6000, 4000), 99).save(path, compress_level=1)
    (page,) = image.page(opened(path), limits)
    assert isinstance(page, CanonicalPage)
    assert page.width_px * page.height_px <= 16_100_000
    assert (page.width_pt, page.height_pt) == (6000, 4000)
    assert page.dpi == pytest.approx(72 * page.width_px / 6000)


def test_a_moving_gif_is_video_and_a_still_one_an_image(tmp_path: Path, opened: Opened, limits: Limits) -> None:
    path = tmp_path / "moving.gif"
    halves().save(path, save_all=True, append_images=[Image.new("RGB", (60, 40), "green")], duration=100)
    found = probe.probe(opened(path), limits)
    assert (found.medium, found.container) == (Medium.VIDEO, "gif")


def test_heic_is_unsupported_in_so_many_words(tmp_path: Path, opened: Opened, limits: Limits) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    for look in (lambda source: probe.probe(source, limits), lambda source: list(image.page(source, limits))):
        with pytest.raises(SourceError, match="HEIC") as caught:
            look(opened(path))
        assert caught.value.type == "unsupported"
