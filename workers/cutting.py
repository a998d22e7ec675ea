"""Turns one decoded source into units: sound into spans, pictures into clips, a document into pages.

Canonical media are put in the object store as they are made, so memory holds one unit's at a time.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from omni_jobs.job import Medium, Task, UnitKind
from omni_jobs.options import Options, page_ranges
from omni_jobs.store.database import new_id
from omni_jobs.store.units import Claimed, NewUnit
from workers import keys
from workers.context import Context
from workers.inputs import RATE_HZ, Canonical, CanonicalAudio, CanonicalClip, CanonicalPage, Shot, Sound
from workers.media import audio, cuts, document, image, video
from workers.media.document import PageFailure
from workers.media.gaps import Gap
from workers.media.probe import Probe
from workers.media.sandbox import Limits
from workers.speech.activity import level_dbfs, speech_spans

REASONS = {
    "damaged": "could not be decoded: the file is damaged here",
    "missing": "could not be decoded: the file ends before the end it promises",
}


@dataclass(slots=True)
class Prepared:
    """Units of a source, and what its row says of it (the arguments of `store.sources.describe`)."""

    facts: dict[str, Any]
    units: list[NewUnit] = field(default_factory=list)


class Cutting:
    """The preparation of one source whose bytes lie in an open local file."""

    def __init__(
        self, unit: Claimed, context: Context, options: Options, file: BinaryIO, limits: Limits, folder: Path
    ) -> None:
        self._unit, self._context, self._options = unit, context, options
        self._file, self._limits, self._folder = file, limits, folder
        self._identity = context.parts.identity

    def run(self, found: Probe, tasks: tuple[Task, ...]) -> Prepared:
        prepared = Prepared(
            {
                "medium": found.medium.value,
                "container": found.container,
                "duration_s": found.duration_s,
                "pages": found.pages,
                "tasks": [task.value for task in tasks],
                "probe": found.as_json(),
                "gaps": [],
                "speech": [],
            }
        )
        if Task.DOCUMENT in tasks:
            self._pages(found, prepared)
            return prepared
        ends_s: list[float] = []
        sound: audio.DecodedAudio | None = None
        if found.audio is not None:
            sound = self._sound(
                found, prepared, wanted=Task.TRANSCRIBE in tasks, until=0.5 if Task.CAPTION in tasks else 0.95
            )
            ends_s.append(max([sound.end_s, *(gap.end_s for gap in sound.gaps if gap.reason != "hole")]))
        if Task.CAPTION in tasks:
            ends_s.append(self._clips(prepared, sound))
        prepared.facts["duration_s"] = max(ends_s)
        return prepared

    # Sound

    def _sound(self, found: Probe, prepared: Prepared, *, wanted: bool, until: float) -> audio.DecodedAudio:
        options = self._options
        length_s = (options.end_s or found.duration_s or 3600.0) - options.start_s
        decoded = self._context.part(0.1, 0.1 + (until - 0.1) * 0.4)
        heard = self._context.part(0.1 + (until - 0.1) * 0.4, 0.1 + (until - 0.1) * 0.8)
        sound = audio.decode(
            self._file,
            self._limits,
            self._folder,
            start_s=options.start_s,
            end_s=options.end_s,
            cancel=self._context.cancel,
            on_progress=lambda at_s: decoded(min(1.0, (at_s - options.start_s) / max(length_s, 1e-3))),
        )
        speech = [
            (start_s + sound.start_s, end_s + sound.start_s)
            for start_s, end_s in speech_spans(sound.samples, on_progress=heard)
        ]
        prepared.facts["speech"] = speech
        if wanted:
            prepared.facts["gaps"] += _gaps("speech", sound.gaps)
            self._spans(sound, speech, prepared, self._context.part(0.1 + (until - 0.1) * 0.8, until))
        return sound

    def _spans(
        self, sound: audio.DecodedAudio, speech: list[tuple[float, float]], prepared: Prepared, moved: Any
    ) -> None:
        shifted = [(start_s - sound.start_s, end_s - sound.start_s) for start_s, end_s in speech]
        spans = cuts.spans(shifted, sound.duration_s)
        for position, (first_s, last_s) in enumerate(spans):
            start_s, end_s = first_s + sound.start_s, last_s + sound.start_s
            samples = sound.samples[round(first_s * RATE_HZ) : round(last_s * RATE_HZ)]
            within = [[max(a, start_s), min(b, end_s)] for a, b in speech if a < end_s and b > start_s]
            where = {"start_s": start_s, "end_s": end_s, "speech": within}
            media = CanonicalAudio(samples.astype("int16"), start_s)
            prepared.units.append(self._put(UnitKind.SPAN, position, media, where, end_s - start_s))
            moved((position + 1) / len(spans))

    # Pictures

    def _clips(self, prepared: Prepared, sound: audio.DecodedAudio | None) -> float:
        """Returns where the pictures end."""
        options = self._options
        scan = video.scan(self._file, self._limits, cancel=self._context.cancel, on_progress=None)
        shots = [shot for shot in scan.shots if _overlaps(shot, options.start_s, options.end_s)]
        shots = [_clamp(shot, options.start_s, options.end_s) for shot in shots]
        prepared.facts["gaps"] += _gaps("video", scan.gaps)
        speech = prepared.facts["speech"]
        self._context.report(0.7)
        clips = cuts.clips(shots)
        for position, within in enumerate(clips):
            times_s = video.sample_times(within, options.frames_per_s)
            frames = tuple(video.frames(self._file, self._limits, times_s, cancel=self._context.cancel))
            start_s, end_s = within[0].start_s, within[-1].end_s
            media = CanonicalClip(
                start_s,
                end_s,
                scan.width_px,
                scan.height_px,
                shots=tuple(within),
                frames=frames,
                sound=tuple(_sound_of(shot, sound, speech) for shot in within) if sound is not None else (),
            )
            where = {"start_s": start_s, "end_s": end_s}
            prepared.units.append(self._put(UnitKind.CLIP, position, media, where, end_s - start_s))
            self._context.report(0.7 + 0.25 * (position + 1) / len(clips))
        return scan.duration_s

    # Paper

    def _pages(self, found: Probe, prepared: Prepared) -> None:
        made = 0
        for page in self._read_pages(found):
            if isinstance(page, PageFailure):
                prepared.units.append(
                    NewUnit(
                        UnitKind.PAGE, self._unit.source_id, page.page, {"page": page.page}, 1.0, error=page.problem
                    )
                )
            else:
                where = {"page": page.page, "width_pt": page.width_pt, "height_pt": page.height_pt}
                prepared.units.append(self._put(UnitKind.PAGE, page.page, page, where, 1.0))
            made += 1
            self._context.report(0.1 + 0.85 * min(1.0, made / max(found.pages or 1, 1)))

    def _read_pages(self, found: Probe) -> Iterator[CanonicalPage | PageFailure]:
        if found.medium is Medium.IMAGE:
            return image.page(self._file, self._limits, cancel=self._context.cancel)
        return document.pages(
            self._file,
            self._limits,
            password=self._unit.secret.get("password", ""),
            ranges=page_ranges(self._options.pages),
            dpi=self._options.dpi,
            cancel=self._context.cancel,
        )

    def _put(self, kind: UnitKind, position: int, media: Canonical, where: dict[str, Any], amount: float) -> NewUnit:
        """Put a unit's canonical media where the backend finds it."""
        unit_id, data = new_id(), media.to_bytes()
        key = keys.media_key(self._unit.tenant_id, self._unit.job_id, unit_id)
        self._context.parts.blobs.put(key, data, media.media_type)
        return NewUnit(
            kind,
            self._unit.source_id,
            position,
            where | {"blob": key},
            amount,
            keys.reuse_of_unit(kind.value, data, where, self._unit.options, self._identity),
            unit_id,
        )


def _gaps(medium: str, gaps: tuple[Gap, ...]) -> list[list[Any]]:
    """What is missing; a hole in the timestamps is silence, not a loss."""
    return [[medium, gap.start_s, gap.end_s, REASONS[gap.reason]] for gap in gaps if gap.reason in REASONS]


def _overlaps(shot: Shot, start_s: float, end_s: float | None) -> bool:
    return shot.end_s > start_s and (end_s is None or shot.start_s < end_s)


def _clamp(shot: Shot, start_s: float, end_s: float | None) -> Shot:
    return Shot(max(shot.start_s, start_s), shot.end_s if end_s is None else min(shot.end_s, end_s))


def _sound_of(shot: Shot, sound: audio.DecodedAudio, speech: list[tuple[float, float]]) -> Sound:
    first, last = (round((at_s - sound.start_s) * RATE_HZ) for at_s in (shot.start_s, shot.end_s))
    samples = sound.samples[max(first, 0) : max(last, 0)]
    heard_s = sum(max(0.0, min(b, shot.end_s) - max(a, shot.start_s)) for a, b in speech)
    return Sound(shot.start_s, shot.end_s, round(heard_s, 3), level_dbfs(samples))
