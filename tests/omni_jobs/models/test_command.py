"""`omni-jobs model add | list | remove`, against a hub on the loopback."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from omni_jobs.models import facts, resolve_model, store
from omni_jobs.models.store import Changed, NotWhole
from omni_jobs.settings import Settings
from tests.omni_jobs.cli.conftest import Run, start
from tests.omni_jobs.models import needs
from tests.omni_jobs.models.fake_hub import COMMIT, ID, FakeHub, digest
from tests.omni_jobs.models.test_choice import INDEX

pytestmark = needs.weights
SOURCE, NAME = f"hf:{ID}", "Tiny-Omni-FP8"
SHARD = "model-00001-of-00002.safetensors"
TAKEN = {
    "config.json", "generation_config.json", "hf_quant_config.json", "preprocessor_config.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", INDEX, SHARD,
    "model-00002-of-00002.safetensors",
}  # fmt: skip
CARD = {"name": "NVIDIA L4", "memory_bytes": 24 << 30, "free_bytes": -9 << 30, "fits": False, "window_tokens": 16,
        "sequences": {"audio": 0, "page": 0, "video": 0}}  # fmt: skip


def weights(place: Path) -> Path:
    return place.parent / "home" / "models" / NAME / "weights"


def model(name: str = NAME) -> Path:
    return resolve_model(Settings(model=name))


def listed(run: Run) -> dict[str, Any]:
    return {one["name"]: one for one in run("model", "list", "--json").document["models"]}


def test_a_model_comes_whole_and_is_then_found_by_name(hub: FakeHub, place: Path, run: Run) -> None:
    ran = run("model", "add", SOURCE)
    assert ran.status == 0
    said = ran.out.splitlines()
    assert said[0] == f"repository  {ID} at {COMMIT[:12]}: FP8"
    # Whether it fits is said before the first tensor is asked for: nothing of them came when it was only asked.
    assert [line.split()[0] for line in said] == ["repository", "size", "card", "fits", "to", "whole", "to"]
    assert said[-1] == f"to use it   OMNI_MODEL={NAME}"
    assert re.search(r"^3\.\d MB of 3\.\d MB$", ran.err, re.MULTILINE)
    assert {path.name for path in weights(place).iterdir()} == TAKEN == hub.names()
    assert model() == weights(place)
    one = listed(run)[NAME]
    assert one["digest"] == facts.survey(weights(place))["digest"]
    assert (one["state"], one["format"], one["revision"], one["source"]) == ("whole", "FP8", COMMIT, SOURCE)
    assert {file["name"]: file["sha256"] for file in one["files"]} == {name: digest(hub.files[name]) for name in TAKEN}
    assert one["size_bytes"] == one["held_bytes"] == sum(len(hub.files[name]) for name in TAKEN)
    assert one["card"]["fits"] is True
    shown = run("model", "list").out.splitlines()
    assert shown[2].split()[:6] == [NAME, "FP8", "3.6", "MB", one["digest"][:12], "whole"]
    # A second time nothing is fetched.
    asked = len(hub.asked)
    again = run("model", "add", SOURCE, "--json")
    assert again.status == 0 and again.document["state"] == "whole" and again.document["to_come_bytes"] == 0
    assert {one.path.rpartition("/")[2] for one in hub.asked[asked:]} == {
        "main", "config.json", "hf_quant_config.json", INDEX,
    }  # fmt: skip


def test_asking_only_fetches_no_tensor_and_leaves_nothing(hub: FakeHub, place: Path, run: Run) -> None:
    ran = run("model", "add", SOURCE, "--dry-run", "--json")
    document = ran.document
    assert ran.status == 0 and ran.err == ""
    assert document["state"] == "partial" and document["held_bytes"] == 0 and document["card"]["fits"] is True
    assert document["to_come_bytes"] == document["size_bytes"] == sum(len(hub.files[name]) for name in TAKEN)
    assert hub.names() == {"config.json", "hf_quant_config.json", INDEX}
    assert not (place.parent / "home").exists()
    assert "fits        yes: beside it" in run("model", "add", SOURCE, "--dry-run").out


def test_a_card_that_is_too_small_is_said_before(
    hub: FakeHub, place: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "_asked", lambda *words, **named: [{"format": "FP8", "card": CARD}])
    ran = run("model", "add", SOURCE)
    assert ran.status == 1 and "fits        no: 9.7 GB too few" in ran.out
    assert f"error: {NAME}: does not fit on this card, NVIDIA L4; --anyway fetches it all the same" in ran.err
    assert SHARD not in hub.names() and not weights(place).exists()
    monkeypatch.undo()


def test_no_room_is_said_before(hub: FakeHub, place: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMNI_MIN_FREE_BYTES", str(1 << 60))
    ran = run("model", "add", SOURCE, "--json")
    assert ran.status == 1 and ran.document["error"]["type"] == "refused"
    assert re.search(r"bytes free; 3,\d{3},\d{3} are to come and 1,152,921,504,606,846,976 must stay free", ran.err)
    assert SHARD not in hub.names() and not weights(place).exists()


@pytest.mark.parametrize(("what", "call"), [("hub", "tempfile.mkstemp"), ("directory", "os.fsync")])
def test_a_disk_that_is_full_when_the_record_is_written_is_said(
    hub: FakeHub, checkpoint: Path, place: Path, run: Run, monkeypatch: pytest.MonkeyPatch, what: str, call: str
) -> None:
    def full(*words: Any, **named: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    source = SOURCE if what == "hub" else checkpoint
    with monkeypatch.context() as patch:
        patch.setattr(f"{store.__name__}.{call}", full)
        ran = run("model", "add", source, "--json")
    assert ran.status == 1 and ran.document["error"]["type"] == "refused" and "the disk is full" in ran.err
    assert not list((place.parent / "home" / "models").iterdir())
    assert run("model", "add", source).status == 0


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_what_was_interrupted_goes_on_where_it_stopped(
    hub: FakeHub, place: Path, run: Run, how: signal.Signals
) -> None:
    hub.pause_s = 0.02
    process = start("model", "add", SOURCE, "--json")
    _wait(lambda: hub.sent_bytes.get(SHARD, 0) > 300_000, process)
    process.send_signal(how)
    out, err = process.communicate(timeout=30)
    hub.pause_s = 0.0
    if how is signal.SIGINT:
        assert process.returncode == 130 and json.loads(out)["error"]["type"] == "interrupted"
        assert re.search(r"[\d.]+ [kM]B of 3\.\d MB are here: the same command goes on from there", err)
        assert err.endswith("error: interrupted\n") and "Traceback" not in err
    with pytest.raises(NotWhole, match=f"omni-jobs model add {SOURCE}"):
        model()
    one = listed(run)[NAME]
    assert one["state"] == "partial" and 0 < one["held_bytes"] < one["size_bytes"] and one["digest"] == ""
    assert "partial, " in run("model", "list").out
    held = (weights(place) / f"{SHARD}.part").stat().st_size
    assert run("model", "add", SOURCE).status == 0
    assert held > 100_000 and f"bytes={held}-" in hub.ranges_of(SHARD)
    assert {path.name: path.read_bytes() for path in model().iterdir()} == {name: hub.files[name] for name in TAKEN}


def _wait(ready: Any, process: "subprocess.Popen[str]") -> None:
    until = time.monotonic() + 60
    while not ready():
        assert process.poll() is None and time.monotonic() < until
        time.sleep(0.01)


def test_a_file_that_was_changed_on_the_way_leaves_no_model(hub: FakeHub, place: Path, run: Run) -> None:
    hub.bent = {SHARD}
    ran = run("model", "add", SOURCE, "--json")
    assert ran.status == 1 and ran.document["error"] == {
        "type": "damaged",
        "message": ran.err.splitlines()[-1].removeprefix("error: "),
        "retryable": False,
    }
    assert f"{SHARD}: expected sha-256 {digest(hub.files[SHARD])}, got" in ran.err
    assert not (weights(place) / SHARD).exists() and listed(run)[NAME]["state"] == "partial"
    hub.bent = set()
    assert run("model", "add", SOURCE).status == 0 and model() == weights(place)


def test_files_that_are_not_the_model_are_not_taken_for_it(hub: FakeHub, run: Run) -> None:
    # Every byte is as the hub says; what the index names is not all there.
    index = json.loads(hub.files[INDEX])
    first = next(name for name, file in index["weight_map"].items() if file == SHARD)
    del index["weight_map"][first]
    hub.files[INDEX] = json.dumps(index).encode()
    ran = run("model", "add", SOURCE)
    assert ran.status == 1 and "all files are as the hub has them, and are not the model: " in ran.err
    with pytest.raises(NotWhole):
        model()


@pytest.mark.parametrize(
    ("given", "status", "kind", "said"),
    [
        ({"token": "hf_secret"}, 2, "not_found", "or a private one: then set HF_TOKEN"),
        ({"gated": True}, 1, "refused", "its owner wants terms to be accepted"),
        ({"status": 401}, 1, "refused", "does not take our token"),
        ({"pages": "list"}, 1, "unavailable", "is HF_ENDPOINT right"),
        ({"pages": "files"}, 1, "unavailable", "is HF_ENDPOINT right"),
        ({"status": 502}, 1, "unavailable", "answers 502: try again later"),
    ],
)
def test_a_hub_that_gives_nothing_is_one_sentence(
    hub: FakeHub, place: Path, run: Run, given: dict[str, Any], status: int, kind: str, said: str
) -> None:
    for name, value in given.items():
        setattr(hub, name, value)
    ran = run("model", "add", SOURCE, "--json")
    assert (ran.status, ran.document["error"]["type"]) == (status, kind)
    assert said in ran.err and ran.err.count("\n") == 1
    assert not (place.parent / "home").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["hf:nobody/nothing"], "no such repository at"),
        ([f"{SOURCE}@v9"], "has the repository, not that revision"),
        (["hf:a/b/c"], "expected hf:OWNER/NAME or hf:OWNER/NAME@REVISION"),
        (["nowhere"], "expected a directory or hf:OWNER/NAME, got 'nowhere'"),
        (["."], "config.json: cannot be read"),
        ([SOURCE, "--name", "../up"], "expected a name of letters"),
    ],
)
def test_a_source_that_is_none_is_a_mistake(hub: FakeHub, run: Run, words: list[str], said: str) -> None:
    ran = run("model", "add", *words)
    assert ran.status == 2 and said in ran.err


def test_another_kind_of_model_is_refused_before_its_weights(hub: FakeHub, run: Run) -> None:
    hub.files["config.json"] = b'{"model_type": "llama"}'
    ran = run("model", "add", SOURCE)
    assert ran.status == 2 and "/model_type: expected" in ran.err and SHARD not in hub.names()
    del hub.files["config.json"]
    assert "expected a repository with config.json" in run("model", "add", SOURCE).err


def test_no_token_is_ever_shown(hub: FakeHub, place: Path) -> None:
    hub.token = "hf_secret_of_mine"
    hub.gated = True
    said = ""
    for token in (hub.token, "hf_another_of_mine"):
        process = start("model", "add", SOURCE, "--json", HF_TOKEN=token, OMNI_DEBUG="1", HF_DEBUG="1")
        said += "".join(process.communicate(timeout=60))
        assert process.returncode == 1
    assert "Traceback" in said and "its owner wants terms" in said and "does not take our token" in said
    assert "of_mine" not in said
    # Nor does the client ask for more than we want of it.
    assert all("/resolve/" in one.path or one.path == f"/api/models/{ID}/revision/main" for one in hub.asked)


def test_a_directory_stays_where_it_is(checkpoint: Path, place: Path, run: Run) -> None:
    shutil.copytree(checkpoint, place / "weights")
    assert run("model", "add", "weights", "--name", "tiny", "--dry-run").status == 0
    assert listed(run) == {}
    ran = run("model", "add", "weights", "--name", "tiny")
    assert ran.status == 0 and "format      FP8" in ran.out and "to use it   OMNI_MODEL=tiny" in ran.out
    one = listed(run)["tiny"]
    assert (one["state"], one["format"], one["directory"]) == ("whole", "FP8", str(place / "weights"))
    assert one["digest"] == facts.survey(checkpoint)["digest"]
    assert model("tiny") == place / "weights"
    assert not list((place.parent / "home").rglob("*.safetensors"))
    with open(place / "weights" / SHARD, "ab") as file:
        file.write(b"x")
    assert listed(run)["tiny"]["state"] == "changed"
    with pytest.raises(Changed, match=rf"{SHARD}: expected [\d,]+ bytes, got"):
        model("tiny")
    ran = run("model", "add", "weights", "--name", "tiny")
    assert ran.status == 1 and "files that cannot be used" in ran.err
    removed = run("model", "remove", "tiny", "--json").document
    assert removed == {"name": "tiny", "removed": True, "kept": str(place / "weights")}
    assert (place / "weights" / SHARD).exists() and listed(run) == {}


def test_a_folder_of_the_hubs_own_cache_is_called_by_its_repository(checkpoint: Path, place: Path, run: Run) -> None:
    cache = place / "models--nvidia--Tiny-Omni-FP8"
    (cache / "snapshots" / COMMIT).mkdir(parents=True)
    (cache / "blobs").mkdir()
    for path in checkpoint.iterdir():
        os.link(path, cache / "blobs" / path.name)
        (cache / "snapshots" / COMMIT / path.name).symlink_to(f"../../blobs/{path.name}")
    assert run("model", "add", cache / "snapshots" / COMMIT).status == 0
    assert model() == cache / "snapshots" / COMMIT


def test_a_name_belongs_to_one_source(hub: FakeHub, checkpoint: Path, place: Path, run: Run) -> None:
    assert run("model", "add", checkpoint, "--name", NAME, "--json").status == 0
    ran = run("model", "add", SOURCE, "--json")
    assert ran.status == 1 and ran.document["error"]["type"] == "conflict" and "add this one with --name" in ran.err
    assert run("model", "remove", NAME).status == 0
    assert run("model", "add", SOURCE).status == 0
    hub.commit = "a" * 40
    ran = run("model", "add", SOURCE)
    assert ran.status == 1 and f"is here at revision {COMMIT[:12]}, and aaaaaaaaaaaa was asked for" in ran.err
    assert run("model", "add", SOURCE, "--name", "newer").status == 0
    assert run("model", "remove", NAME).out == f"{NAME}: removed\n"
    assert not weights(place).exists() and list(listed(run)) == ["newer"]


def test_a_partial_model_follows_its_revision(hub: FakeHub, place: Path, run: Run) -> None:
    hub.cuts = {"model-00002-of-00002.safetensors": [1000, 0, 0, 0]}
    assert run("model", "add", SOURCE).status == 1
    hub.commit = "a" * 40
    hub.files["chat_template.jinja"] = b"{{ other }}"
    (weights(place) / "vocab.txt").write_text("of an earlier revision")
    assert run("model", "add", SOURCE).status == 0
    assert listed(run)[NAME]["revision"] == "a" * 40
    assert {path.name: path.read_bytes() for path in model().iterdir()} == {name: hub.files[name] for name in TAKEN}


def test_a_list_says_what_it_can_without_the_workers(
    checkpoint: Path, place: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("model", "add", checkpoint)
    (place / "workers").mkdir()
    (place / "workers" / "__init__.py").write_text("raise ImportError('broken')")
    monkeypatch.setenv("PYTHONPATH", str(place))
    assert run("model", "list").out.splitlines()[2].split()[5:7] == ["whole", "?"]


def test_without_the_client_it_says_how_to_get_it(place: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    ran = run("model", "add", SOURCE)
    assert ran.status == 1 and "the hub's client is not installed: pip install 'omni-jobs[engine]'" in ran.err
