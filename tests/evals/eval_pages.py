"""How well pages are read: words, order, facts, OCR, cost.

python tests/evals/eval_pages.py                          # everything, ../shared/media
python tests/evals/eval_pages.py --only layer,order       # seconds: no OCR
python tests/evals/eval_pages.py --only ocr --pages first --json /tmp/pages.json
"""

import argparse
import io
import json
import os
import platform
import re
import resource
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from difflib import SequenceMatcher
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from PIL import Image, ImageOps

from workers.answers import PageAnswer
from workers.backends.embedded.pages import Pages
from workers.inputs import CanonicalPage, PageWord
from workers.media import document
from workers.media.sandbox import Limits

PARTS = ("layer", "order", "facts", "tables", "doubt", "ocr")
RUNNING = ("header", "footer")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--media", type=Path, default=Path(__file__).parents[3] / "shared" / "media")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--only", default=",".join(PARTS), help=f"parts, out of {','.join(PARTS)}")
    parser.add_argument("--pages", choices=("all", "first"), default="all", help="OCR of ICDAR: pages of each file")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(f"machine: {os.cpu_count()} cores {platform.machine()}, Python {platform.python_version()}, commit {commit}")
    evaluation = Evaluation(args.media, Pages(args.threads), args.pages)
    figures: dict[str, Any] = {"commit": commit, "cores": os.cpu_count()}
    for part in args.only.split(","):
        figures[part] = getattr(evaluation, part)()
    figures["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"peak RSS {figures['peak_rss_mb']} MB")
    if args.json:
        args.json.write_text(json.dumps(figures, indent=1))


class Evaluation:
    def __init__(self, media: Path, pages: Pages, ocr_pages: str) -> None:
        self.media = media
        self.pages = pages
        self.ocr_pages = ocr_pages
        self.files = {record["file"]: record for record in json.loads((media / "MANIFEST.json").read_text())["files"]}

    def layer(self) -> dict[str, Any]:
        """Born-digital pages: bag of words against the text layer, word for word as written."""
        total, cost, pages, doubled, worst = Bag(), 0.0, 0, 0, []
        for name, record in self.files.items():
            if "text_layer" not in record:
                continue
            references = json.loads((self.media / record["text_layer"]).read_text())
            for page, reference in zip(self._open(name), references, strict=True):
                started = time.process_time()
                answer = self.pages.read(page)
                cost += time.process_time() - started
                bag = Bag(reference, text_of(answer))
                total += bag
                pages += 1
                doubled += (bag.ours - bag.reference).total()
                worst.append((bag.f1, name, page.page, bag.missing(), bag.extra()))
        for f1, name, number, missing, extra in sorted(worst)[:5]:
            if f1 < 1:
                print(f"  {name} p{number}: F1 {f1:.4f}, missing {missing}, extra {extra}")
        print(
            f"layer: {pages} pages, {total.reference.total()} words: precision {total.precision:.4f}, "
            f"recall {total.recall:.4f}, {doubled} words more often than in the reference, "
            f"{cost / pages:.3f} CPU s a page"
        )
        return total.figures() | {"pages": pages, "doubled": doubled, "cpu_s_per_page": cost / pages}

    def order(self) -> dict[str, Any]:
        """Share of neighbouring words of the reference that are no neighbours in ours.

        References: `two_column*`: content order of the PDF (LaTeX writes a column after the other; checked by eye,
        title, abstract, left, right, foot). `*.md` of docling: the text of the expected output, in its order; words
        of it that the page lacks (alt texts, marks) are left out, a pair counts where both words are on the page.
        """
        figures: dict[str, Any] = {}
        broken = pairs = 0
        for name in ("pdf/two_column.pdf", "pdf/two_column_2p.pdf"):
            for page in self._open(name):
                errors, count = order_error([w.text for w in page.words], text_of(self.pages.read(page)).split())
                broken, pairs = broken + errors, pairs + count
                figures[f"{name} p{page.page}"] = errors / count
        figures["two_column"] = broken / pairs
        print(f"order: two columns, {pairs} pairs: error {broken / pairs:.4f}", end="")
        print("; " + ", ".join(f"{k} {v:.4f}" for k, v in figures.items() if k != "two_column"))
        for name, record in self.files.items():
            if "markdown" not in record:
                continue
            answers = [self.pages.read(page) for page in self._open(name)]
            reference = plain((self.media / record["markdown"]).read_text())
            ours = plain(" ".join(text_of(answer, running=False) for answer in answers))
            errors, count = order_error(reference, ours)
            figures[name] = errors / max(count, 1)
            print(f"  {name}: {count} pairs, error {figures[name]:.4f}")
        return figures

    def facts(self) -> dict[str, Any]:
        """Tests of olmOCR: is a text there, is it absent (from the body), is the order right."""
        passed: Counter[str] = Counter()
        tried: Counter[str] = Counter()
        for name, record in self.files.items():
            if "checks" not in record:
                continue
            answers = {page.page: self.pages.read(page) for page in self._open(name)}
            for check in json.loads((self.media / record["checks"]).read_text()):
                verdict = check_fact(check, answers[check["page"]])
                if verdict is None:
                    continue
                tried[check["type"]] += 1
                passed[check["type"]] += verdict
                if not verdict:
                    what = {k: v for k, v in check.items() if k not in ("page", "type", "id")}
                    print(f"  failed {check['type']} {check['id']}: {what!s:.120}")
        print("facts: " + ", ".join(f"{kind} {passed[kind]}/{tried[kind]}" for kind in sorted(tried)))
        return {kind: [passed[kind], tried[kind]] for kind in sorted(tried)}

    def tables(self) -> dict[str, Any]:
        """ICDAR 2013: cells of each reference table against our table of its page that shares most of them."""
        hits = {"cell": 0.0, "text": 0.0}
        ours_n = reference_n = found = count = 0
        for name, record in self.files.items():
            if "tables" not in record:
                continue
            answers = {page.page: self.pages.read(page) for page in self._open(name)}
            for table in json.loads((self.media / record["tables"]).read_text())["tables"]:
                count += 1
                reference_n += sum(bool(plain(cell["text"])) for cell in table["cells"])
                best: tuple[float, float, int] = (0.0, 0.0, 0)
                for block in answers[table["page"]].blocks:
                    cells = [
                        {"row": r, "col": c, "text": text}
                        for r, row in enumerate(block.rows or [])
                        for c, text in enumerate(row)
                    ]
                    size = sum(bool(plain(cell["text"])) for cell in cells)
                    f1 = score().cells(table["cells"], cells)
                    best = max(best, (f1["text"]["precision"] * size, f1["cell"]["precision"] * size, size))
                found += best[2] > 0
                hits["text"], hits["cell"], ours_n = hits["text"] + best[0], hits["cell"] + best[1], ours_n + best[2]
        f1 = {kind: 2 * hit / max(ours_n + reference_n, 1) for kind, hit in hits.items()}
        print(
            f"tables: {count} of ICDAR 2013 with {reference_n} cells, {found} found: F1 of (row, col, text) "
            f"{f1['cell']:.3f}, of the texts {f1['text']:.3f} (tables that are not there do not count)"
        )
        return {"tables": count, "found": found, "cells": reference_n, **f1}

    def doubt(self) -> dict[str, Any]:
        """A layer that is empty or lies must give OCR and say so; an honest one must not."""
        honest = next(self._open("pdf/two_column.pdf", render="all"))
        scan = replace(honest, images_share=1.0)
        shifted = replace(honest, words=tuple(replace(w, text=caesar(w.text)) for w in honest.words))
        blind = replace(honest, words=tuple(replace(w, text="\ufffd" * len(w.text)) for w in honest.words))
        others = next(self._open("pdf/two_column_2p.pdf")).words
        cases = {
            "honest": (honest, "text_layer"),
            "honest under a scan": (scan, "text_layer"),
            "empty": (replace(honest, words=()), "ocr"),
            "unmappable": (blind, "ocr"),
            "shifted letters": (shifted, "ocr"),
            "words of another page under a scan": (replace(scan, words=others), "ocr"),
        }
        right = 0
        for case, (page, source) in cases.items():
            answer = self.pages.read(page)
            right += answer.source == source and bool(answer.reason) == (source == "ocr")
            print(f"  {case}: {answer.source} {answer.reason}")
        print(f"doubt: {right}/{len(cases)} right")
        return {"right": right, "cases": len(cases)}

    def ocr(self) -> dict[str, Any]:
        """Pages without their words, against the text layer or the known text."""
        figures: dict[str, Any] = {"pages": {}}
        groups: dict[str, list[tuple[str, CanonicalPage, str]]] = {"scan": [], "icdar": []}
        for name, record in self.files.items():
            if record["kind"] == "pdf" and record.get("scanned") and "text" in record:
                groups["scan"] += [(name, page, record["text"]) for page in self._open(name, render="all")][:1]
            if name in ("image/page.png",):
                groups["scan"].append((name, picture_page(self.media / name), record["text"]))
            if name.startswith("pdf/tables/eu-"):
                pages = [
                    (name, page, " ".join(word.text for word in page.words)) for page in self._open(name, render="all")
                ]
                groups["icdar"] += pages[: 1 if self.ocr_pages == "first" else None]
        for group, pages in groups.items():
            total, inside, cost = Bag(), Bag(), 0.0
            for name, page, reference in pages:
                started = time.process_time()
                answer = self.pages.read(replace(page, words=()))
                seconds = time.process_time() - started
                cost += seconds
                bag, near = Bag(reference, text_of(answer)), Bag(reference, text_near(answer, page.words))
                total, inside = total + bag, inside + near
                figures["pages"][f"{name} p{page.page}"] = bag.figures() | {"cpu_s": seconds, "turn": answer.rotation}
                print(
                    f"  {name} p{page.page}: F1 {bag.f1:.3f} P {bag.precision:.3f} R {bag.recall:.3f} "
                    f"turn {answer.rotation} {seconds:.1f} s; missing {bag.missing(5)} extra {bag.extra(5)}"
                )
            print(
                f"ocr {group}: {len(pages)} pages, {total.reference.total()} words: F1 {total.f1:.4f} "
                f"(precision {total.precision:.4f}, recall {total.recall:.4f}), {cost / len(pages):.2f} CPU s a page; "
                f"only blocks that touch a word of the layer: F1 {inside.f1:.4f}"
            )
            figures[group] = total.figures() | {"cpu_s_per_page": cost / len(pages), "f1_where_words_are": inside.f1}
        return figures

    def _open(self, name: str, *, render: Literal["needed", "all"] = "needed") -> Iterator[CanonicalPage]:
        password = self.files[name].get("password", "")
        with (self.media / name).open("rb") as source:
            for page in document.pages(source, Limits(), password=password, dpi=150, render=render):
                if isinstance(page, CanonicalPage):
                    yield page
                else:
                    print(f"  {name}: {page.problem.message}")


class Bag:
    """Two bags of words and what they share; bags add up."""

    def __init__(self, reference: str = "", ours: str = "") -> None:
        self.reference, self.ours = Counter(plain(reference)), Counter(plain(ours))
        self._hits = (self.reference & self.ours).total()
        self._sums = self.reference.total(), self.ours.total()

    def __add__(self, other: "Bag") -> "Bag":
        sum_ = Bag()
        sum_.reference, sum_.ours = self.reference + other.reference, self.ours + other.ours
        sum_._hits = self._hits + other._hits
        sum_._sums = self._sums[0] + other._sums[0], self._sums[1] + other._sums[1]
        return sum_

    @property
    def recall(self) -> float:
        return self._hits / max(self._sums[0], 1)

    @property
    def precision(self) -> float:
        return self._hits / max(self._sums[1], 1)

    @property
    def f1(self) -> float:
        return 2 * self._hits / max(sum(self._sums), 1) if sum(self._sums) else 1.0

    def missing(self, most: int = 8) -> list[str]:
        return list((self.reference - self.ours).elements())[:most]

    def extra(self, most: int = 8) -> list[str]:
        return list((self.ours - self.reference).elements())[:most]

    def figures(self) -> dict[str, Any]:
        return {"words": self._sums[0], "precision": self.precision, "recall": self.recall, "f1": self.f1}


def plain(text: str) -> list[str]:
    """Words as `score.norm` of the media folder has them."""
    return score().norm(text).split()


def score() -> Any:
    sys.path.insert(0, str(Path(__file__).parents[3] / "shared" / "media"))
    import score as module

    sys.path.pop(0)
    return module


def text_of(answer: PageAnswer, *, running: bool = True) -> str:
    return "\n".join(block.text for block in answer.blocks if running or block.kind not in RUNNING)


def text_near(answer: PageAnswer, words: tuple[PageWord, ...]) -> str:
    """Text of the blocks in which the layer has words: pictures with text in them are no errors of OCR."""
    if not words:
        return text_of(answer)
    kept = []
    for block in answer.blocks:
        x0, y0, x1, y1 = block.box
        if any(x0 <= (w.x0 + w.x1) / 2 <= x1 and y0 <= (w.y0 + w.y1) / 2 <= y1 for w in words):
            kept.append(block.text)
    return "\n".join(kept)


def order_error(reference: list[str], ours: list[str]) -> tuple[int, int]:
    """(Pairs of neighbours that are not neighbours in ours, pairs): words matched greedily by what follows them."""
    have = Counter(ours)
    pairs = [(a, b) for a, b in pairwise(reference) if have[a] and have[b]]
    found = Counter(pairwise(ours))
    errors = 0
    for pair in pairs:
        if found[pair]:
            found[pair] -= 1
        else:
            errors += 1
    return errors, len(pairs)


def check_fact(check: dict[str, Any], answer: PageAnswer) -> bool | None:
    body = " ".join(plain(text_of(answer, running=False)))
    most = check.get("max_diffs", 0) + 1
    match check["type"]:
        case "present":
            return place(check["text"], body, most) is not None
        case "absent":
            end = body[-check["last_n"] :] if "last_n" in check else body
            return re.search(rf"(?<!\w){re.escape(' '.join(plain(check['text'])))}(?!\w)", end) is None
        case "order":
            before, after = place(check["before"], body, most), place(check["after"], body, most)
            return before is not None and after is not None and before < after
        case "table":
            return check_cell(check, answer)
    return None


def check_cell(check: dict[str, Any], answer: PageAnswer) -> bool:
    for block in answer.blocks:
        for r, row in enumerate(block.rows or []):
            for c, cell in enumerate(row):
                if plain(check["cell"]) != plain(cell):
                    continue
                rows = block.rows or []
                facts = {
                    "up": [rows[r - 1][c]] if r else [],
                    "left": [row[c - 1]] if c else [],
                    "left_heading": row[:c],
                    "top_heading": [above[c] for above in rows[:r]],
                }
                if all(any(plain(check[k]) == plain(v) for v in facts[k]) for k in facts if k in check):
                    return True
    return False


def place(text: str, body: str, most: int) -> int | None:
    """Where `text` stands in `body`, with so many characters different at most; None when it does not."""
    wanted = " ".join(plain(text))
    if (at := body.find(wanted)) >= 0:
        return at
    match = SequenceMatcher(None, body, wanted, autojunk=False)
    block = match.find_longest_match()
    start = max(block.a - block.b, 0)
    around = SequenceMatcher(None, body[start : start + len(wanted)], wanted, autojunk=False)
    same = sum(piece.size for piece in around.get_matching_blocks())
    return start if len(wanted) - same <= most + 2 else None


def caesar(text: str) -> str:
    return "".join(chr((ord(c) - 97 + 3) % 26 + 97) if "a" <= c <= "z" else c for c in text)


def picture_page(path: Path) -> CanonicalPage:
    image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
    data = io.BytesIO()
    image.save(data, "JPEG", quality=95)
    return CanonicalPage(1, *image.size, *image.size, 72, 0, data.getvalue(), images_share=1.0)


if __name__ == "__main__":
    main()
