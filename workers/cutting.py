"""Turns one decoded source into units: sound into spans, pictures into clips, a document into pages.

Canonical media are put in the object store as they are made, so memory holds one unit's at a time.
"""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from omni_jobs.errors import ErrorType, Problem, SourceError
from omni_jobs.extras import HOW_SPEAKERS, has_speakers
from omni_jobs.failpoints import reach
from omni_jobs.job import Medium, Task, UnitKind
from omni_jobs.options import Options, page_ranges
from omni_jobs.store.claims import Claimed
from omni_jobs.store.database import new_id
from omni_jobs.store.units import NewUnit
from workers import keys
from workers.context import Context
from workers.inputs import RATE_HZ, Canonical, CanonicalAudio, CanonicalClip, CanonicalPage, Frame, Shot, Sound
from workers.media import audio, cuts, document, image, video
from workers.media.document import PageFailure
from workers.media.gaps import Gap
from workers.media.probe import AudioStream, Probe, VideoStream
from workers.media.sandbox import Limits
from workers.snapshot import Told
from workers.speech.activity import level_dbfs, speech_spans

REASONS = {
    "damaged": "the file is damaged here",
    "missing": "the file ends before the end it promises",
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
        self._streams(found, prepared, set(tasks))
        return prepared

    def _streams(self, found: Probe, prepared: Prepared, tasks: set[Task]) -> None:
        """Sound and pictures. One that cannot be decoded costs its own answers, not those of the other."""
        lost: list[tuple[str, SourceError]] = []
        ends_s: list[float] = []
        sound = None
        if found.audio is not None:
            # For captions too: they say what is heard.
            try:
                sound = self._sound(found, prepared, 0.5 if Task.CAPTION in tasks else 0.95)
                ends_s += self._ends(found.audio, sound)
            except SourceError as error:
                if Task.CAPTION not in tasks or error.problem.retryable:
                    raise
                lost.append(("speech", error))
                ends_s.append(_promised_end(found.audio))
        if sound is not None and Task.TRANSCRIBE in tasks:
            prepared.facts["gaps"] += _gaps("speech", sound.gaps)
            self._spans(sound, prepared)
            self._speakers(prepared)
        if Task.CAPTION in tasks:
            try:
                ends_s.append(self._clips(found, prepared, sound))
            except SourceError as error:
                if Task.TRANSCRIBE not in tasks or sound is None or error.problem.retryable:
                    raise
                lost.append(("video", error))
                ends_s.append(_promised_end(found.video))
        elif found.video is not None:
            ends_s.append(_promised_end(found.video))
        prepared.facts["duration_s"] = max(ends_s)
        for medium, error in lost:
            self._lose(medium, error, prepared)

    def _ends(self, stream: AudioStream, sound: audio.DecodedAudio) -> list[float]:
        """Where the sound of the file ends: as it was seen, or where less of it was asked for as it is promised."""
        ends_s = [sound.end_s, *(gap.end_s for gap in sound.gaps if gap.reason in REASONS)]
        stopped = self._options.end_s is not None and max(ends_s) > self._options.end_s - 0.25
        return [*ends_s, _promised_end(stream)] if stopped else ends_s

    def _lose(self, medium: str, error: SourceError, prepared: Prepared) -> None:
        """Note what is not answered of a medium, and why. Where there is no sound there is silence, and that is all."""
        prepared.facts["probe"]["audio" if medium == "speech" else "video"]["problem"] = str(error)
        if medium == "speech" and (error.type is ErrorType.EMPTY or "transcribe" not in prepared.facts["tasks"]):
            return
        clips_s = [unit.input["end_s"] for unit in prepared.units if unit.kind is UnitKind.CLIP]
        start_s = max([self._options.start_s, *(clips_s if medium == "video" else [])])
        end_s = prepared.facts["duration_s"]
        if self._options.end_s is not None:
            end_s = min(end_s, self._options.end_s)
        if end_s > start_s:
            prepared.facts["gaps"].append([medium, start_s, end_s, str(error)])

    # Sound

    def _sound(self, found: Probe, prepared: Prepared, until: float) -> audio.DecodedAudio:
        """Decode the sound and listen for speech."""
        options = self._options
        length_s = (options.end_s or found.duration_s or 3600.0) - options.start_s
        middle = (0.1 + until) / 2
        decoded, heard = self._context.part(0.1, middle), self._context.part(middle, until)
        sound = audio.decode(
            self._file,
            self._limits,
            self._folder,
            start_s=options.start_s,
            end_s=options.end_s,
            cancel=self._context.cancel,
            on_progress=lambda at_s: decoded(min(1.0, (at_s - options.start_s) / max(length_s, 1e-3))),
        )
        prepared.facts["speech"] = [
            (round(start_s + sound.start_s, 3), round(end_s + sound.start_s, 3))
            for start_s, end_s in speech_spans(sound.samples, on_progress=heard)
        ]
        if sound.one_channel_s:
            prepared.facts["probe"]["audio"]["one_channel_s"] = round(sound.one_channel_s, 3)
        return sound

    def _spans(self, sound: audio.DecodedAudio, prepared: Prepared) -> None:
        speech = prepared.facts["speech"]
        for position, (start_s, end_s) in enumerate(cuts.spans(speech, sound.end_s, start_s=sound.start_s)):
            first, last = (round((at_s - sound.start_s) * RATE_HZ) for at_s in (start_s, end_s))
            where = {"start_s": start_s, "end_s": end_s, "speech": _within(speech, start_s, end_s)}
            media = CanonicalAudio(np.asarray(sound.samples[first:last], np.int16), start_s)
            prepared.units.append(self._put(UnitKind.SPAN, position, media, where, end_s - start_s))

    def _speakers(self, prepared: Prepared) -> None:
        """One unit over all spans, where there is speech and who speaks is wanted."""
        wanted = has_speakers() if self._options.speakers is None else self._options.speakers
        spans = list(prepared.units)
        if not wanted or not spans or not prepared.facts["speech"]:
            return
        pieces = [[span.input["blob"], span.input["start_s"], span.input["end_s"]] for span in spans]
        start_s, end_s = pieces[0][1], pieces[-1][2]
        content = "\n".join(span.reuse_key or "" for span in spans).encode()
        missing = Problem(ErrorType.UNSUPPORTED, f"speakers cannot be told apart here: {HOW_SPEAKERS}")
        prepared.units.append(
            NewUnit(
                UnitKind.SPEAKERS,
                self._unit.source_id,
                input={"start_s": start_s, "end_s": end_s, "pieces": pieces},
                amount=end_s - start_s,
                reuse_key=keys.reuse_of_unit("speakers", content, {}, self._options.effective(), self._identity),
                error=None if has_speakers() else missing,
                # Several times faster than the recording, but the machine may be busy.
                time_limit_s=max(3600.0, end_s - start_s),
            )
        )

    # Pictures

    def _clips(self, found: Probe, prepared: Prepared, sound: audio.DecodedAudio | None) -> float:
        """Returns where the pictures of the file end."""
        options, length_s = self._options, found.duration_s or 3600.0
        scanned, framed = self._context.part(0.5, 0.7), self._context.part(0.7, 0.95)
        scan = video.scan(
            self._file,
            self._limits,
            cancel=self._context.cancel,
            on_progress=lambda at_s: scanned(min(1.0, at_s / length_s)),
        )
        prepared.facts["gaps"] += _gaps("video", scan.gaps)
        clips = cuts.clips(_asked(scan.shots, options.start_s, options.end_s))
        if not clips:
            raise SourceError(ErrorType.EMPTY, f"the pictures end at {scan.end_s:.1f} s, before the part asked for")
        frames = video.clips(
            self._file,
            self._limits,
            [video.sample_times(within, options.frames_per_s) for within in clips],
            cancel=self._context.cancel,
            on_progress=framed,
        )
        speech = prepared.facts["speech"]
        for position, (within, shown) in enumerate(zip(clips, frames, strict=True)):
            media = _clip(scan, within, shown, sound, speech)
            where = {"start_s": media.start_s, "end_s": media.end_s}
            prepared.units.append(self._put(UnitKind.CLIP, position, media, where, media.end_s - media.start_s))
        return max([scan.end_s, *(gap.end_s for gap in scan.gaps if gap.reason in REASONS)])

    # Paper

    def _pages(self, found: Probe, prepared: Prepared) -> None:
        total = max(found.pages or 1, 1)
        for made, page in enumerate(self._read_pages(found), 1):
            if isinstance(page, PageFailure) and page.partial:
                prepared.facts["gaps"].append(["page", page.page, page.page, page.problem.message])
            elif isinstance(page, PageFailure):
                failed = {"page": page.page}
                unit = NewUnit(UnitKind.PAGE, self._unit.source_id, page.page, failed, 1.0, error=page.problem)
                prepared.units.append(unit)
            else:
                where = {"page": page.page, "width_pt": page.width_pt, "height_pt": page.height_pt}
                prepared.units.append(self._put(UnitKind.PAGE, page.page, page, where, 1.0))
            self._context.report(0.1 + 0.85 * min(1.0, made / total))

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
        context = self._context
        # A slow store moves too, and a cancel is heard while it does.
        told = Told(io.BytesIO(data), len(data), lambda share: context.report(context.progress))
        stored = context.parts.blobs.put(self._unit.prefix + unit_id, told, media.media_type)  # type: ignore[arg-type]
        reach("prepare.put")
        return NewUnit(
            kind,
            self._unit.source_id,
            position,
            where | {"blob": stored.key, "sha256": stored.sha256},
            amount,
            keys.reuse_of_unit(kind.value, data, where, self._options.effective(), self._identity),
            unit_id,
            cost=amount * self._identity.cost_s.get(kind.value, 1.0),
            bytes=len(data),
        )


def _clip(
    scan: video.Scan,
    shots: tuple[Shot, ...],
    shown: tuple[Frame, ...],
    sound: audio.DecodedAudio | None,
    speech: list[tuple[float, float]],
) -> CanonicalClip:
    """What is on screen when the clip begins belongs to it, however long ago it appeared."""
    start_s = shots[0].start_s
    return CanonicalClip(
        start_s,
        shots[-1].end_s,
        scan.width_px,
        scan.height_px,
        shots=shots,
        frames=tuple(replace(frame, time_s=max(frame.time_s, start_s)) for frame in shown),
        sound=tuple(_sound_of(shot, sound, speech) for shot in shots) if sound is not None else (),
    )


def _gaps(medium: str, gaps: tuple[Gap, ...]) -> list[list[Any]]:
    """What is missing; a hole in the timestamps is silence, not a loss."""
    return [[medium, gap.start_s, gap.end_s, REASONS[gap.reason]] for gap in gaps if gap.reason in REASONS]


def _promised_end(stream: AudioStream | VideoStream | None) -> float:
    """Where a stream ends by what the file says; 0 where it does not say."""
    return stream.start_s + stream.duration_s if stream is not None and stream.duration_s else 0.0


def _asked(shots: tuple[Shot, ...], start_s: float, end_s: float | None) -> list[Shot]:
    """The shots, less what lies before and after the part that was asked for."""
    end_s = float("inf") if end_s is None else end_s
    clamped = [Shot(max(shot.start_s, start_s), min(shot.end_s, end_s)) for shot in shots]
    return [shot for shot in clamped if shot.end_s > shot.start_s]


def _within(speech: list[tuple[float, float]], start_s: float, end_s: float) -> list[list[float]]:
    return [[max(a, start_s), min(b, end_s)] for a, b in speech if a < end_s and b > start_s]


def _sound_of(shot: Shot, sound: audio.DecodedAudio, speech: list[tuple[float, float]]) -> Sound:
    first, last = (round((at_s - sound.start_s) * RATE_HZ) for at_s in (shot.start_s, shot.end_s))
    samples = sound.samples[max(first, 0) : max(last, 0)]
    heard_s = sum(max(0.0, min(b, shot.end_s) - max(a, shot.start_s)) for a, b in speech)
    return Sound(shot.start_s, shot.end_s, round(heard_s, 3), level_dbfs(samples))
