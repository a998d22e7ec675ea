"""Pages of PDFs made here: words as shown, what is rendered, and pages that fail alone."""

import io
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pymupdf
import pytest
from PIL import Image

from omni_jobs.errors import SourceError, UsageError
from omni_jobs.job import Medium
from workers.inputs import CanonicalPage
from workers.media import probe
from workers.media.document import PageFacts, PageFailure, needs_image, pages
from workers.media.sandbox import Limits

Opened = Callable[[Path], BinaryIO]


@pytest.fixture
def make_pdf(tmp_path: Path) -> Callable[..., Path]:
    """Writes a PDF whose page n says "Page n"; `change` may add to it."""

    def make(count: int = 1, change: Callable[[pymupdf.Document], object] = lambda _: None, **save: object) -> Path:
        pdf = pymupdf.open()
        for number in range(1, count + 1):
            pdf.new_page(width=300, height=400).insert_text((30, 50), f"Page {number}", fontsize=14, fontname="hebo")
        change(pdf)
        pdf.save(tmp_path / "made.pdf", **save)
        return tmp_path / "made.pdf"

    return make


def only(source: BinaryIO, limits: Limits, **options: object) -> CanonicalPage:
    (page,) = pages(source, limits, **options)  # type: ignore[arg-type]
    assert isinstance(page, CanonicalPage), page
    return page


def test_words_carry_their_place_and_look(make_pdf: Callable[..., Path], opened: Opened, limits: Limits) -> None:
    page = only(opened(make_pdf()), limits)
    assert [word.text for word in page.words] == ["Page", "1"]
    first = page.words[0]
    assert (first.size_pt, first.bold, first.block, first.line) == (14.0, True, 0, 0)
    assert 29 < first.x0 < 31
    assert first.y0 < 50 < first.y1 + 3
    assert (page.page, page.width_pt, page.height_pt, page.dpi, page.jpeg) == (1, 300, 400, 150, b"")


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_words_of_a_turned_page_lie_where_they_are_seen(
    rotation: int, make_pdf: Callable[..., Path], opened: Opened, limits: Limits
) -> None:
    path = make_pdf(1, lambda pdf: pdf[0].set_rotation(rotation))
    page = only(opened(path), limits, render="all")
    assert page.rotation == rotation
    assert (page.width_pt, page.height_pt) == ((400, 300) if rotation in (90, 270) else (300, 400))
    grey = np.asarray(Image.open(io.BytesIO(page.jpeg)).convert("L"))
    assert grey.shape == (page.height_px, page.width_px)
    dark = np.argwhere(grey < 128) * 72 / page.dpi
    boxes = np.array([(word.x0, word.y0, word.x1, word.y1) for word in page.words])
    inside = [
        any(box[0] - 1 <= x <= box[2] + 1 and box[1] - 1 <= y <= box[3] + 1 for box in boxes) for y, x in dark[::7]
    ]
    assert len(inside) > 10
    assert all(inside)


def test_drawn_lines_are_kept_and_pictures_measured(
    make_pdf: Callable[..., Path], opened: Opened, limits: Limits
) -> None:
    def change(pdf: pymupdf.Document) -> None:
        pdf[0].draw_line((20, 100), (280, 100))
        pdf[0].draw_rect((20, 120, 120, 160))
        picture = pymupdf.Pixmap(pymupdf.csRGB, (0, 0, 20, 20), False)
        picture.clear_with(90)
        pdf[0].insert_image((0, 200, 300, 400), pixmap=picture, keep_proportion=False)

    page = only(opened(make_pdf(1, change)), limits)
    assert page.images_share == pytest.approx(0.5, abs=0.02)
    assert (20, 100, 280, 100) in page.rulings
    assert len(page.rulings) == 5
    assert page.jpeg  # half a picture and two words: they are not all


def test_a_scan_is_rendered_at_the_dpi_asked_for(make_pdf: Callable[..., Path], opened: Opened, limits: Limits) -> None:
    page = only(
        opened(make_pdf(1, lambda pdf: (pdf.delete_page(0), pdf.new_page(width=144, height=72)))), limits, dpi=100
    )
    assert (page.width_px, page.height_px, page.words) == (200, 100, ())
    assert Image.open(io.BytesIO(page.jpeg)).size == (200, 100)


def test_a_page_too_large_to_render_is_rendered_smaller_or_fails(
    make_pdf: Callable[..., Path], opened: Opened, limits: Limits
) -> None:
    def change(pdf: pymupdf.Document) -> None:
        pdf.delete_page(0)
        pdf.new_page(width=7200, height=7200)
        pdf.new_page(width=400_000, height=400_000)

    large, vast = pages(opened(make_pdf(1, change)), limits)
    assert isinstance(large, CanonicalPage)
    assert 60 < large.dpi < 75
    assert large.width_px * large.height_px <= 50_100_000
    assert isinstance(vast, PageFailure)
    assert (vast.page, vast.problem.type, vast.partial) == (2, "too_large", False)


def test_ranges_choose_pages_in_order(make_pdf: Callable[..., Path], opened: Opened, limits: Limits) -> None:
    source = opened(make_pdf(9))
    found = [page.page for page in pages(source, limits, ranges=[(7, 8), (2, 2), (8, 2**31 - 1)])]
    assert found == [7, 8, 2, 9]
    with pytest.raises(UsageError, match=r"within 1\.\.9, got 10-12,40"):
        list(pages(source, limits, ranges=[(10, 12), (40, 40)]))


def test_an_encrypted_pdf_needs_its_password(make_pdf: Callable[..., Path], opened: Opened, limits: Limits) -> None:
    path = make_pdf(1, encryption=pymupdf.PDF_ENCRYPT_AES_256, user_pw="sesame", owner_pw="o")
    source = opened(path)
    for password, words in (("", "a password, got none"), ("wrong", "got a wrong one")):
        with pytest.raises(SourceError, match=words) as caught:
            list(pages(source, limits, password=password))
        assert caught.value.type == "encrypted"
        with pytest.raises(SourceError):
            probe.probe(source, limits, password=password)
    assert only(source, limits, password="sesame").words
    found = probe.probe(source, limits, password="sesame")
    assert (found.medium, found.container, found.pages, found.encrypted) == (Medium.DOCUMENT, "pdf", 1, True)
    assert not probe.probe(opened(make_pdf()), limits).encrypted


def test_html_named_pdf_is_none(tmp_path: Path, opened: Opened, limits: Limits) -> None:
    for text in ("<html><body>%PDF-1.7 inside</body></html>", "<html><body>hello</body></html>"):
        path = tmp_path / "page.pdf"
        path.write_text(text)
        with pytest.raises(SourceError) as caught:
            list(pages(opened(path), limits))
        assert caught.value.type in ("unreadable", "unsupported")


def test_a_page_that_hangs_fails_alone(
    make_pdf: Callable[..., Path], opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Page 2 draws nested forms, ten calls each, twelve deep: 10^12 drawings in some 3 kB."""

    def change(pdf: pymupdf.Document) -> None:
        form = pdf.get_new_xref()
        pdf.update_object(form, "<< /Type /XObject /Subtype /Form /BBox [0 0 9 9] >>")
        pdf.update_stream(form, b"0 0 1 1 re f " * 10)
        for _ in range(12):
            outer = pdf.get_new_xref()
            pdf.update_object(
                outer,
                f"<< /Type /XObject /Subtype /Form /BBox [0 0 9 9] /Resources << /XObject << /A {form} 0 R >> >> >>",
            )
            pdf.update_stream(outer, b"/A Do " * 10)
            form = outer
        page = pdf[1]
        pdf.xref_set_key(page.xref, "Resources", f"<< /XObject << /A {form} 0 R >> >>")
        contents = pdf.get_new_xref()
        pdf.update_object(contents, "<< >>")
        pdf.update_stream(contents, b"/A Do")
        pdf.xref_set_key(page.xref, "Contents", f"{contents} 0 R")

    monkeypatch.setattr("workers.media.document.PAGE_TIMEOUT_S", 3.0)
    begun = time.monotonic()
    found = list(pages(opened(make_pdf(3, change)), Limits(memory_bytes=1 << 30, timeout_s=60)))
    assert time.monotonic() - begun < 15
    assert [page.page for page in found] == [1, 2, 3]
    assert [type(page).__name__ for page in found] == ["CanonicalPage", "PageFailure", "CanonicalPage"]
    assert isinstance(found[1], PageFailure)
    assert found[1].problem.type == "timeout"


@pytest.mark.parametrize(
    ("facts", "needed"),
    [
        (PageFacts(words=0), True),
        (PageFacts(words=300, characters=1500), False),
        (PageFacts(words=300, characters=1500, images_share=0.6), True),
        (PageFacts(words=10, characters=50, images_share=0.3), True),
        (PageFacts(words=300, characters=1500, odd_characters=200), True),
        (PageFacts(words=300, characters=1500, texts=50, hidden_texts=50), True),
        (PageFacts(words=3, characters=15, outside_words=40), True),
        (PageFacts(words=3, characters=15, paths=4000), True),
    ],
)
def test_a_picture_is_needed_where_the_words_are_doubtful(facts: PageFacts, needed: bool) -> None:
    assert needs_image(facts) is needed
