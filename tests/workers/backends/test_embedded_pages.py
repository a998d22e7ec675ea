"""Pages through the public functions: drawn with PyMuPDF, read by the real models."""

import io
import random
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pymupdf
import pytest
from PIL import Image, ImageDraw, ImageFont

from workers.answers import Box, PageAnswer
from workers.backends.backend import Cancelled
from workers.backends.embedded.ocr import Line, Ocr, Reading, turned_back
from workers.backends.embedded.order import reading_order
from workers.backends.embedded.pages import Pages
from workers.inputs import CanonicalPage, PageWord

LEFT = "Alpha bravo charlie delta echo foxtrot golf hotel india juliett kilo lima mike november oscar papa quebec."
RIGHT = "Romeo sierra tango uniform victor whiskey xray yankee zulu zero one two three four five six seven eight."


@pytest.fixture(scope="module")
def pages() -> Pages:
    return Pages(threads=2)


def make_page(draw: Callable[[Any], None], *, picture: bool = False, rotation: int = 0) -> CanonicalPage:
    with pymupdf.open() as document:
        page = document.new_page(width=420, height=595)
        draw(page)
        page.set_rotation(rotation)
        words = []
        spans = [
            (pymupdf.Rect(span["bbox"]), span)
            for block in page.get_text("dict")["blocks"]
            for line in block.get("lines", [])
            for span in line["spans"]
        ]
        for x0, y0, x1, y1, text, block, line, _ in page.get_text("words"):
            middle = pymupdf.Point((x0 + x1) / 2, (y0 + y1) / 2)
            span = next(span for box, span in spans if middle in box)
            box = pymupdf.Rect(x0, y0, x1, y1) * page.rotation_matrix
            words.append(PageWord(*box, text, block, line, span["size"], bool(span["flags"] & 16)))
        rulings = [
            tuple(pymupdf.Rect(item[1], item[2]).normalize() * page.rotation_matrix)
            for drawing in page.get_drawings()
            for item in drawing["items"]
            if item[0] == "l"
        ]
        pixels = page.get_pixmap(dpi=150)
        jpeg = jpeg_of(Image.frombytes("RGB", (pixels.width, pixels.height), pixels.samples)) if picture else b""
        return CanonicalPage(
            page=1,
            width_pt=page.rect.width,
            height_pt=page.rect.height,
            width_px=pixels.width,
            height_px=pixels.height,
            dpi=150,
            rotation=rotation,
            jpeg=jpeg,
            words=tuple(words),
            rulings=tuple(rulings),
        )


def jpeg_of(image: Image.Image) -> bytes:
    data = io.BytesIO()
    image.save(data, "JPEG", quality=95)
    return data.getvalue()


def make_scan(image: Image.Image) -> CanonicalPage:
    return CanonicalPage(1, image.width / 2, image.height / 2, *image.size, 144, 0, jpeg_of(image), images_share=1.0)


def printed(*lines: str, size: int = 34) -> Image.Image:
    image = Image.new("RGB", (900, 130 + 70 * len(lines)), "white")
    for k, line in enumerate(lines):
        ImageDraw.Draw(image).text((60, 60 + 70 * k), line, fill="black", font=ImageFont.load_default(size))
    return image


def column(page: Any, text: str, x: float, y: float, width: float = 165) -> None:
    assert page.insert_textbox(pymupdf.Rect(x, y, x + width, y + 200), text, fontsize=10) > 0


def two_columns(page: Any) -> None:
    page.insert_text((120, 70), "On two columns", fontsize=20)
    # The right one is written first: the order of the file is not the order of reading.
    column(page, RIGHT, 220, 100)
    column(page, LEFT, 40, 100)
    page.insert_text((205, 580), "7", fontsize=9)


def text_of(answer: PageAnswer) -> str:
    return " ".join(" ".join(block.text for block in answer.blocks).split())


def test_columns_are_read_one_after_the_other(pages: Pages) -> None:
    answer = pages.read(make_page(two_columns))
    assert answer.source == "text_layer"
    assert not answer.reason
    assert text_of(answer) == f"On two columns {LEFT} {RIGHT} 7"
    assert [block.kind for block in answer.blocks] == ["title", "text", "text", "footer"]


def test_every_word_comes_exactly_once_with_a_box_around_it(pages: Pages) -> None:
    page = make_page(two_columns)
    answer = pages.read(page)
    assert Counter(text_of(answer).split()) == Counter(word.text for word in page.words)
    for block in answer.blocks:
        x0, y0, x1, y1 = block.box
        inside = [w for w in page.words if x0 - 1 <= w.x0 and w.x1 <= x1 + 1 and y0 - 1 <= w.y0 and w.y1 <= y1 + 1]
        assert sorted(word.text for word in inside) == sorted(block.text.split())


def test_words_that_overlap_or_repeat_are_kept(pages: Pages) -> None:
    words = tuple(PageWord(50, 50, 80, 60, "twice", 0, 0, 10) for _ in range(2))
    words += (PageWord(50, 50, 80, 60, "over", 1, 0, 10), PageWord(-40, 700, -10, 710, "outside", 2, 0, 10))
    answer = pages.read(replace(make_page(lambda page: None), words=words))
    assert Counter(text_of(answer).split()) == {"twice": 2, "over": 1, "outside": 1}


def test_a_ruled_table_gives_its_cells_row_by_row(pages: Pages) -> None:
    rows = [["Fruit", "Weight", "Price"], ["Apple", "120 g", "0.40"], ["Melon", "", "3.10"]]

    def draw(page: Any) -> None:
        page.insert_text((60, 90), "What the market had on offer this morning, by weight and by price.", fontsize=10)
        for k in range(4):
            page.draw_line((60, 120 + 24 * k), (360, 120 + 24 * k))
            page.draw_line((60 + 100 * k, 120), (60 + 100 * k, 192))
        for r, row in enumerate(rows):
            for c, cell in enumerate(row):
                page.insert_text((66 + 100 * c, 136 + 24 * r), cell, fontsize=10)

    answer = pages.read(make_page(draw))
    assert [block.kind for block in answer.blocks] == ["text", "table"]
    assert answer.blocks[1].rows == rows


def test_aligned_short_cells_are_a_table_without_any_line(pages: Pages) -> None:
    rows = [["Berlin", "891", "3.7"], ["Hamburg", "755", "1.9"], ["Munich", "310", "1.5"], ["Cologne", "405", "1.1"]]

    def draw(page: Any) -> None:
        column(page, LEFT, 40, 60, width=330)
        for r, row in enumerate(rows):
            for c, cell in enumerate(row):
                page.insert_text((60 + 110 * c, 200 + 14 * r), cell, fontsize=10)

    answer = pages.read(make_page(draw))
    assert [block.rows for block in answer.blocks if block.kind == "table"] == [rows]


def test_two_columns_of_prose_are_no_table(pages: Pages) -> None:
    assert "table" not in {block.kind for block in pages.read(make_page(two_columns)).blocks}


@pytest.mark.parametrize("turn", [90, 270])
def test_a_text_layer_on_its_side_is_read_along_its_lines(pages: Pages, turn: int) -> None:
    # The page shows its text turned by `turn` clockwise; reading needs the rest of a full circle.
    page = make_page(two_columns, rotation=turn)
    answer = pages.read(page)
    assert answer.rotation == 360 - turn
    assert text_of(answer) == f"On two columns {LEFT} {RIGHT} 7"
    assert max(block.box[2] for block in answer.blocks) > page.height_pt


def test_a_page_without_words_and_print_has_no_source(pages: Pages) -> None:
    answer = pages.read(make_page(lambda page: None, picture=True))
    assert (answer.source, answer.blocks, answer.unread) == ("none", [], "")


class Finds(Ocr):
    """Sees some lines, and reads those it is given."""

    def __init__(self, *lines: Line, dropped: int = 0) -> None:
        super().__init__()
        self._reading = Reading(lines, dropped=dropped)

    def read(self, *args: Any, **more: Any) -> Reading:
        return self._reading

    def knows(self, text: str) -> bool:
        return True


def test_print_that_nobody_could_read_is_told() -> None:
    scan = make_scan(printed("It is there"))
    line = Line("It is", (60, 60, 200, 90), 0.9)
    assert Pages(ocr=Finds(dropped=3)).read(scan).unread == "Print was seen and none of it could be read: 3 lines."
    assert Pages(ocr=Finds(line, dropped=1)).read(scan).unread == "1 line of print could not be read."
    assert Pages(ocr=Finds(line)).read(scan).unread == ""
    nothing = Pages(ocr=Finds()).read(scan)
    assert (nothing.source, nothing.unread) == ("ocr", "")


def test_words_that_print_does_not_confirm_are_told() -> None:
    answer = Pages(ocr=Finds()).read(make_page(two_columns, picture=True))
    assert (answer.blocks, answer.unread) == ([], "The text layer says that there is print, and none could be read.")


@pytest.mark.parametrize("words", [0, 5])
def test_a_page_at_which_nobody_looked_is_not_blank(pages: Pages, words: int) -> None:
    odd = tuple(PageWord(50, 20 * k, 80, 20 * k + 10, "\ufffd\ufffd", k, 0, 10) for k in range(words))
    answer = pages.read(replace(make_page(lambda page: None), words=odd))
    assert (answer.source, answer.blocks) == ("none", [])
    assert answer.unread == f"{answer.reason} No picture was made of it."


def test_a_layer_that_is_kept_for_want_of_print_says_what_it_lacks() -> None:
    page = make_page(two_columns, picture=True)
    some = tuple(replace(w, text="\ufffd" * len(w.text)) if k % 4 == 0 else w for k, w in enumerate(page.words))
    answer = Pages(ocr=Finds()).read(replace(page, words=some))
    assert answer.source == "text_layer" and "characters without a meaning" in answer.unread


def test_an_empty_layer_goes_to_ocr_and_says_so(pages: Pages) -> None:
    answer = pages.read(replace(make_page(two_columns, picture=True), words=()))
    assert answer.source == "ocr"
    assert answer.reason == "The page has no text layer."
    assert text_of(answer) == f"On two columns {LEFT} {RIGHT} 7"
    assert all(block.confidence and block.confidence > 0.9 for block in answer.blocks)


def test_boxes_of_ocr_are_points_of_the_page(pages: Pages) -> None:
    page = make_page(two_columns, picture=True)
    layer, read = pages.read(replace(page, jpeg=b"")), pages.read(replace(page, words=()))
    assert len(layer.blocks) == 4
    for a, b in zip(layer.blocks, read.blocks, strict=True):
        assert a.box == pytest.approx(b.box, abs=6)


def test_a_layer_without_meaning_goes_to_ocr_and_says_so(pages: Pages) -> None:
    page = make_page(two_columns, picture=True)
    answer = pages.read(replace(page, words=tuple(replace(w, text="\ufffd" * len(w.text)) for w in page.words)))
    assert answer.source == "ocr"
    assert "without a meaning" in answer.reason
    assert LEFT in text_of(answer)


def test_a_layer_that_lies_goes_to_ocr_and_says_so(pages: Pages) -> None:
    page = make_page(two_columns, picture=True)
    answer = pages.read(replace(page, words=tuple(replace(w, text=w.text[::-1] + "x") for w in page.words)))
    assert answer.source == "ocr"
    assert "does not say what is printed" in answer.reason
    assert LEFT in text_of(answer)


def test_a_layer_that_print_confirms_is_kept(pages: Pages) -> None:
    answer = pages.read(replace(make_page(two_columns, picture=True), images_share=1.0))
    assert (answer.source, answer.reason) == ("text_layer", "")


def test_ocr_adds_what_a_poor_layer_lacks_and_doubles_nothing(pages: Pages) -> None:
    page = make_page(two_columns, picture=True)
    some = tuple(word for word in page.words if word.y0 < 80 or word.text == "7")
    answer = pages.read(replace(page, words=some, images_share=1.0))
    assert answer.source == "ocr"
    assert "only 4 words" in answer.reason
    assert text_of(answer) == f"On two columns {LEFT} {RIGHT} 7"


def test_a_layer_in_a_script_that_ocr_lacks_is_kept(pages: Pages) -> None:
    page = make_page(two_columns, picture=True)
    arabic = tuple(replace(word, text="\u0645\u0631\u062d\u0628\u0627") for word in page.words)
    assert pages.read(replace(page, words=arabic, images_share=1.0)).source == "text_layer"


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_a_scan_is_read_whatever_way_it_lies(pages: Pages, turn: int) -> None:
    upright = printed("The quick brown fox jumps over", "the lazy dog at half past nine.")
    scan = make_scan(upright.rotate(turn, expand=True))  # counterclockwise
    answer = pages.read(scan)
    assert answer.rotation == turn
    assert text_of(answer) == "The quick brown fox jumps over the lazy dog at half past nine."
    box = answer.blocks[0].box
    assert 0 <= box[0] < box[2] <= scan.width_pt
    assert 0 <= box[1] < box[3] <= scan.height_pt
    assert (box[2] - box[0] > box[3] - box[1]) == (turn % 180 == 0)


def test_the_same_page_gives_the_same_answer_after_others(pages: Pages) -> None:
    scan = make_scan(printed("Nothing is carried over", "from page to page"))
    first = pages.read(scan)
    pages.read(make_scan(printed("Something else entirely", size=60)))
    assert pages.read(scan) == first == Pages(threads=1).read(scan)


def test_a_cancelled_page_stops_between_two_steps(pages: Pages) -> None:
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked > 1

    with pytest.raises(Cancelled):
        pages.read(make_scan(printed("This is never read to its end")), cancelled=cancelled)
    assert asked == 2


def test_a_page_says_how_far_it_is(pages: Pages) -> None:
    seen: list[float] = []
    pages.read(make_scan(printed(*["One line after the other"] * 8)), on_progress=seen.append)
    assert len(seen) >= 4 and seen == sorted(seen) and seen[-1] == 1.0


def scattered(count: int, seed: int = 0, width: float = 30.0, step: float = 0.01) -> list[Box]:
    """Boxes anywhere on a page, their corners on a grid."""
    draw = random.Random(seed)
    corners = [(round(draw.uniform(0, 560) / step) * step, round(draw.uniform(0, 780) / step) * step)
               for _ in range(count)]  # fmt: skip
    return [(x, y, x + draw.uniform(1, width), y + draw.uniform(4, 12)) for x, y in corners]


def labelled(count: int) -> tuple[PageWord, ...]:
    return tuple(PageWord(*box, f"label{k}", k, 0, 8) for k, box in enumerate(scattered(count)))


def test_thousands_of_labels_are_read_at_once_and_none_is_lost(pages: Pages) -> None:
    page = replace(make_page(lambda page: None), words=labelled(4000))
    began = time.process_time()
    answer = pages.read(page)
    assert time.process_time() - began < 2
    assert Counter(text_of(answer).split()) == Counter(word.text for word in page.words)


def test_as_many_boxes_as_are_put_in_order_take_no_time() -> None:
    boxes = scattered(1500, width=100)
    began = time.process_time()
    assert sorted(reading_order(boxes, 8)) == list(range(1500))
    assert time.process_time() - began < 2


@pytest.mark.parametrize("seed", range(12))
def test_the_order_is_that_of_the_rule_applied_pair_by_pair(seed: int) -> None:
    boxes = scattered(40, seed, width=(10, 60, 300)[seed % 3], step=(0.01, 20)[seed % 2])
    assert reading_order(boxes) == slowly_ordered(boxes)


def slowly_ordered(boxes: list[Box]) -> list[int]:
    """Breuel's rule over every three boxes, after widening each into the white space beside it."""
    edge, least = 0.15, 0.3
    left_end, right_end = min(b[0] for b in boxes), max(b[2] for b in boxes)
    wide = []
    for a in boxes:
        beside = [b for b in boxes if a[1] < b[3] and a[3] > b[1]]
        room = edge * (a[2] - a[0])
        lefts = [b[2] for b in beside if b[2] <= a[0] + room]
        rights = [b[0] for b in beside if b[0] >= a[2] - room]
        wide.append((min(a[0], max([left_end, *lefts])), max(a[2], min([right_end, *rights])), (a[1] + a[3]) / 2))
    n = range(len(wide))

    def column(a: int, b: int) -> bool:
        (a0, a1, _), (b0, b1, _) = wide[a], wide[b]
        return min(a1, b1) - max(a0, b0) > least * max(min(a1 - a0, b1 - b0), 1e-6)

    def before(a: int, b: int) -> bool:
        low, high = sorted((wide[a][2], wide[b][2]))
        if column(a, b):
            return wide[a][2] < wide[b][2]
        between = any(low < wide[c][2] < high and column(a, c) and column(b, c) for c in n)
        return sum(wide[a][:2]) < sum(wide[b][:2]) and not between

    order: list[int] = []
    seen: set[int] = set()

    def visit(k: int) -> None:
        seen.add(k)
        for other in seeds:
            if other not in seen and other != k and before(other, k):
                visit(other)
        order.append(k)

    seeds = sorted(n, key=lambda k: (boxes[k][1], boxes[k][0]))
    for seed in seeds:
        if seed not in seen:
            visit(seed)
    return order


def test_a_page_can_be_cancelled_while_its_boxes_are_put_in_order(pages: Pages) -> None:
    page = replace(make_page(lambda page: None), words=labelled(1900))
    with pytest.raises(Cancelled):
        pages.read(page, cancelled=lambda: True)


def test_a_picture_of_the_wrong_shape_is_refused_with_its_shape() -> None:
    import numpy as np

    with pytest.raises(ValueError, match=r"expected \[H, W, 3\] uint8, got \[4, 4\] uint8"):
        Ocr().read(np.zeros((4, 4), np.uint8), cancelled=lambda: False)


def test_weights_lie_in_the_package(pages: Pages) -> None:
    files = pages.digests().values()
    assert files and all(path.is_file() for path in files)


def test_a_title_over_two_columns_comes_before_a_short_heading_left_of_it() -> None:
    title, heading, left, right = (150, 10, 300, 30), (10, 60, 50, 70), (10, 80, 200, 300), (220, 60, 410, 300)
    boxes = [right, left, heading, title]
    assert [boxes[k] for k in reading_order(boxes, pad=10)] == [title, heading, left, right]


def test_a_line_over_the_whole_page_parts_the_columns_above_from_those_below() -> None:
    a, b, line, c, d = (0, 0, 90, 50), (110, 0, 200, 50), (0, 70, 200, 80), (0, 100, 90, 150), (110, 100, 200, 150)
    boxes = [d, line, b, c, a]
    assert [boxes[k] for k in reading_order(boxes)] == [a, b, line, c, d]


@pytest.mark.parametrize("turn", [0, 90, 180, 270])
def test_turning_a_box_four_times_a_quarter_leaves_it(turn: int) -> None:
    box = (10.0, 20.0, 40.0, 30.0)
    there = turned_back(box, -turn % 360, *((100, 50) if turn % 180 == 0 else (50, 100)))
    assert turned_back(there, turn, 100, 50) == box
