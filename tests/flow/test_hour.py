"""An hour of speech through the whole stack: how good, how fast, how much memory, and nothing missing.

Prints its figures; run it with `pytest tests/flow/test_hour.py -m slow -s` on an otherwise idle machine.
"""

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.flow.conftest import Running

pytestmark = [pytest.mark.servers, pytest.mark.slow, pytest.mark.timeout(3000)]
TICKS = os.sysconf("SC_CLK_TCK")


def members(stack: Running) -> dict[int, str]:
    """Processes of the stack: pid -> what it is."""
    mark, found = f"OMNI_HOME={stack.folder / 'home'}".encode(), {}
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (
                mark in (entry / "environ").read_bytes()
                or str(stack.folder).encode() in (entry / "cmdline").read_bytes()
            ):
                found[int(entry.name)] = " ".join((entry / "cmdline").read_bytes().decode().split("\0")[1:4])
        except OSError:
            continue
    return found


def cpu_s(pid: int) -> float:
    """User and system seconds of a process and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / TICKS


def peak_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return next((int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")), 0.0)


def recomputed(speech: list[tuple[float, float]], words: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Speech of 1.5 s and more that no word touches, found from the sound and the rows alone."""
    missed = []
    for begin, end in speech:
        at = begin
        for start_s, end_s in sorted(word for word in words if word[0] < end and word[1] > begin):
            if start_s - at >= 1.5:
                missed.append((at, start_s))
            at = max(at, end_s)
        if end - at >= 1.5:
            missed.append((at, end))
    return missed


def test_an_hour_is_transcribed_whole_and_in_time(stack: Running, media: Path, tmp_path: Path) -> None:
    from tests.evals.eval_speech import machine, plain, samples_of, score_hour
    from workers.speech.activity import speech_spans

    file = media / "speech" / "hour.opus"
    before = {pid: cpu_s(pid) for pid in members(stack)}
    begun, load = time.monotonic(), os.getloadavg()[0]
    ran = stack.command("run", str(file), "--no-reuse", "--out", str(tmp_path), "--json", timeout=2900)
    wall_s = time.monotonic() - begun
    used = {pid: cpu_s(pid) - before.get(pid, 0.0) for pid in members(stack)}
    peaks = {what: round(peak_mib(pid)) for pid, what in members(stack).items()}
    assert ran.returncode == 0, ran.stderr
    (job,) = json.loads(ran.stdout)["jobs"]

    rows = stack.sql(
        "select text, start_s, end_s from omni_v1.transcript_words where job_id = %s order by start_s", job["id"]
    )
    result = json.loads(Path(job["files"]["json"]).read_text())["sources"][0]
    text = " ".join(segment["text"] for segment in result["transcript"]["segments"])
    timed = [(piece, row["start_s"], row["end_s"]) for row in rows for piece in plain(row["text"])]
    score: dict[str, Any] = score_hour(json.loads((media / "speech/hour.json").read_text())["utterances"], text, timed)
    missed = recomputed(speech_spans(samples_of(file)), [(row["start_s"], row["end_s"]) for row in rows])
    listed = stack.sql(
        "select start_s, end_s from omni_v1.coverage where job_id = %s and state = 'empty' and reason like %s",
        job["id"],
        "speech was heard%",
    )
    totals = stack.sql("select sum(duration_s) as s, count(*) as n from omni_v1.coverage where job_id = %s", job["id"])
    print(f"\n{machine()}, load before {load}\nwall {wall_s:.0f} s, CPU {sum(used.values()):.0f} s\npeaks MiB {peaks}")
    print(json.dumps(score, indent=1))
    print(
        f"speech without words: {len(missed)} stretches, {sum(b - a for a, b in missed):.1f} s; listed: {len(listed)}"
    )
    print(f"coverage: {totals} of {result['duration_s']} s")
    assert score["wer"] <= 0.15 and score["found"] >= 340
    assert max(peaks.values()) <= 2048
    for begin, end in missed:
        assert any(one["start_s"] - 0.5 <= begin and end <= one["end_s"] + 0.5 for one in listed), (begin, end, listed)
    assert float(totals[0]["s"]) == pytest.approx(result["duration_s"], abs=0.001)
