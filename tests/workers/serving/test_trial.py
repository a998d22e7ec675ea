"""`omni-jobs backend test` against our own server: it can answer every kind of unit, as far as form goes."""

import json
import os
import subprocess
import sys

import pytest

from tests.workers.serving.conftest import Served


@pytest.mark.slow  # it reads a prompt of 63,000 tokens: a minute on a CPU
def test_the_trial_finds_everything_it_needs(served: Served) -> None:
    words = [sys.executable, "-m", "omni_jobs.cli", "backend", "test", served.url, "--json"]
    environment = {**os.environ, "OMNI_LOG_LEVEL": "ERROR"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    report = json.loads(done.stdout)
    found = {check["name"]: (check["state"], check["found"]) for check in report["checks"]}
    assert report["kinds"] == ["span", "clip", "page", "reduce"], found
    # What a model says is not asked of noise: whether it ends its thoughts, or sees red.
    for name in ("models", "text", "JSON schema", "audio", "video", "frames of a long video", "longest answer"):
        assert found[name][0] == "ok", (name, found)
