"""Precision, recall and F1 of the shot cuts against the developer media.

    python tests/evals/eval_shots.py
    python tests/evals/eval_shots.py /data/media --tolerance-s 0.04 --json shots.json

Clips whose `cuts` are unknown do not count; dissolves and fades, and parts of `long.mp4` whose inner cuts are
unknown, count neither way.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from workers.media.sandbox import Limits
from workers.media.video import scan

Stretch = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Clip:
    file: str
    cuts: tuple[float, ...]
    ignored: tuple[Stretch, ...]


@dataclass(frozen=True, slots=True)
class Score:
    file: str
    hits: int
    false: int
    missed: int

    @property
    def precision(self) -> float:
        return self.hits / max(self.hits + self.false, 1)

    @property
    def recall(self) -> float:
        return self.hits / max(self.hits + self.missed, 1)

    @property
    def f1(self) -> float:
        return 2 * self.hits / max(2 * self.hits + self.false + self.missed, 1)


def clips_of(media: Path) -> list[Clip]:
    records = json.loads((media / "MANIFEST.json").read_text())["files"]
    clips = [
        Clip(
            record["file"],
            tuple(cut["time"] for cut in record["cuts"]),
            tuple((part["from_time"], part["to_time"]) for part in record.get("gradual", [])),
        )
        for record in records
        if record["file"].startswith("video/") and "cuts" in record
    ]
    whole = json.loads((media / "video/long.json").read_text())
    unknown = [(part["start"], part["end"]) for part in whole["segments"] if not part["inner_cuts_known"]]
    gradual = [(part["from"], part["to"]) for part in whole["gradual"]]
    return [*clips, Clip("video/long.mp4", tuple(cut["time"] for cut in whole["cuts"]), (*gradual, *unknown))]


def score(clip: Clip, found: list[float], tolerance_s: float) -> Score:
    """Match each true cut with the nearest free one found; those inside ignored stretches are left out."""
    free = list(found)
    hits = 0
    for cut in clip.cuts:
        near = [time for time in free if abs(time - cut) <= tolerance_s + 1e-6]
        if near:
            free.remove(min(near, key=lambda time, cut=cut: abs(time - cut)))
            hits += 1
    inside = [any(begin + tolerance_s < time < end - tolerance_s for begin, end in clip.ignored) for time in free]
    return Score(clip.file, hits, inside.count(False), len(clip.cuts) - hits)


def evaluate(media: Path, tolerance_s: float) -> list[Score]:
    scores = []
    for clip in clips_of(media):
        with (media / clip.file).open("rb") as source:
            found = [shot.start_s for shot in scan(source, Limits()).shots[1:]]
        scores.append(score(clip, found, tolerance_s))
    return scores


def total(scores: list[Score]) -> Score:
    return Score("all", *(sum(getattr(each, name) for each in scores) for name in ("hits", "false", "missed")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("media", nargs="?", type=Path, default=Path(__file__).parents[3] / "shared/media")
    parser.add_argument("--tolerance-s", type=float, default=0.1)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    scores = evaluate(arguments.media, arguments.tolerance_s)
    print(f"{'clip':24} {'cuts':>4} {'hit':>4} {'false':>5} {'miss':>4} {'P':>6} {'R':>6} {'F1':>6}")
    for each in [*scores, total(scores)]:
        cuts = each.hits + each.missed
        rates = f"{each.precision:6.3f} {each.recall:6.3f} {each.f1:6.3f}" if cuts else f"{'-':>6} {'-':>6} {'-':>6}"
        print(f"{each.file:24} {cuts:4} {each.hits:4} {each.false:5} {each.missed:4} {rates}")
    without = sum(each.false for each in scores if not each.hits + each.missed)
    print(f"false cuts in clips without cuts: {without}; tolerance {arguments.tolerance_s} s")
    if arguments.json:
        arguments.json.write_text(json.dumps([asdict(each) for each in scores], indent=1))


if __name__ == "__main__":
    main()
