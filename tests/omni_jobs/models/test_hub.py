"""What the hub says, and what it may say instead, as our errors."""

from pathlib import Path

import pytest

from omni_jobs.errors import NotFound, OmniError, Refused, Unavailable, UsageError
from omni_jobs.models.hub import Hub, HubDown, source_of
from tests.omni_jobs.models import needs
from tests.omni_jobs.models.fake_hub import COMMIT, ID, FakeHub, digest, git_sha1

pytestmark = needs.weights
SHARD = "model-00001-of-00002.safetensors"


def read(hub: Hub, name: str, start: int = 0) -> tuple[int, bytes]:
    with hub.open(hub.repository(ID, "main"), name, start) as (begins, pieces):
        return begins, b"".join(pieces)


def test_the_double_answers_as_the_official_client_expects(hub: FakeHub, tmp_path: Path) -> None:
    from huggingface_hub import hf_hub_download

    for name in ("config.json", SHARD):
        path = hf_hub_download(ID, name, endpoint=hub.url, cache_dir=tmp_path, revision="main")
        assert Path(path).read_bytes() == hub.files[name]
        assert Path(path).parent.name == COMMIT
        assert Path(path).resolve().name == (digest if name == SHARD else git_sha1)(hub.files[name])
    assert hub.names("HEAD") == {"config.json", SHARD}


def test_a_repository_is_its_commit_and_its_files(hub: FakeHub) -> None:
    found = Hub().repository(ID, "main")
    assert (found.id, found.commit) == (ID, COMMIT)
    files = {file.name: file for file in found.files}
    assert files.keys() == hub.files.keys()
    assert files[SHARD].sha256 == digest(hub.files[SHARD]) and not files[SHARD].git_sha1
    assert files["config.json"].git_sha1 == git_sha1(hub.files["config.json"]) and not files["config.json"].sha256
    assert all(file.size_bytes == len(hub.files[name]) for name, file in files.items())
    assert Hub().repository(ID, COMMIT).commit == COMMIT


def test_bytes_come_from_any_offset(hub: FakeHub) -> None:
    data = hub.files[SHARD]
    for name in (SHARD, "config.json"):
        assert read(Hub(), name) == (0, hub.files[name])
        assert read(Hub(), name, 99) == (99, hub.files[name][99:])
    hub.ranges = False
    assert read(Hub(), SHARD, 99) == (0, data)
    hub.ranges, hub.shift = True, 5
    with pytest.raises(HubDown, match="expected bytes from 99 on, got some from 104 on"):
        read(Hub(), SHARD, 99)


def test_the_token_goes_to_the_hub_and_nowhere_else(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token = "hf_secret"
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert read(Hub(), SHARD) == (0, hub.files[SHARD])
    assert {one.token for one in hub.asked if one.at_store} == {None}
    assert {one.token for one in hub.asked if not one.at_store} == {"Bearer hf_secret"}


def test_the_token_may_lie_in_a_file(hub: FakeHub, place: Path) -> None:
    hub.token = "hf_secret"
    (place / "hf").mkdir()
    (place / "hf" / "token").write_text("hf_secret\n")
    assert Hub().repository(ID, "main").commit == COMMIT


@pytest.mark.parametrize(
    ("given", "kind", "said"),
    [
        ({"token": "hf_secret"}, NotFound, "no such repository at 127.0.0.1:.*, or a private one: then set HF_TOKEN"),
        ({"gated": True}, Refused, "its owner wants terms to be accepted"),
        ({"status": 401}, Refused, r"does not take our token \(401\)"),
        ({"status": 403}, Refused, r"does not take our token \(403\)"),
        ({"status": 404}, NotFound, "has no such thing"),
        ({"status": 429}, HubDown, "answers 429: try again later"),
        ({"status": 503}, HubDown, "answers 503: try again later"),
        ({"status": 418}, Unavailable, "answers 418, which was not expected"),
        ({"pages": "list"}, Unavailable, "expected a description of .*, got a page or something else"),
        ({"pages": "files"}, Unavailable, f"expected the file {SHARD}, got a page or something else"),
        ({"commit": "main"}, Unavailable, "expected the commit of"),
        ({"sizes": False}, Unavailable, "expected a description of"),
        ({"cuts": {SHARD: [70_000]}}, HubDown, "does not answer"),
    ],
)
def test_what_a_hub_may_answer(hub: FakeHub, given: dict[str, object], kind: type[OmniError], said: str) -> None:
    for name, value in given.items():
        setattr(hub, name, value)
    with pytest.raises(kind, match=said) as caught:
        read(Hub(), SHARD)
    assert "Signature" not in str(caught.value) and "hf_secret" not in str(caught.value)


def test_a_token_that_is_no_good(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.token = "hf_secret"
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(Refused, match=r"does not take our token \(401\): check HF_TOKEN") as caught:
        Hub().repository(ID, "main")
    assert "hf_other" not in str(caught.value)


def test_what_is_not_there(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFound, match="has the repository, not that revision"):
        Hub().repository(ID, "v9")
    with pytest.raises(NotFound, match="has the repository, not that file"):
        read(Hub(), "none.json")
    with pytest.raises(UsageError, match="not the name of a repository"):
        Hub().repository("a/b--c", "main")
    # Nobody listens at this port.
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(HubDown, match=r"127\.0\.0\.1:9 does not answer \(ConnectError"):
        Hub().repository(ID, "main")
    monkeypatch.setenv("HF_ENDPOINT", "nonsense")
    with pytest.raises(HubDown, match="nonsense does not answer"):
        Hub().repository(ID, "main")


def test_offline_is_said(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(Unavailable, match="HF_HUB_OFFLINE is set"):
        Hub().repository(ID, "main")
    assert not hub.asked


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("nvidia/Omni", ("nvidia/Omni", "main")),
        ("nvidia/Omni@refs/pr/7", ("nvidia/Omni", "refs/pr/7")),
        ("Omni@" + COMMIT, ("Omni", COMMIT)),
        ("", None), ("/Omni", None), ("a/b/c", None), ("a/../b", None), ("a b", None), ("a@../b", None), ("-a/b", None),
        ("https://huggingface.co/a/b", None), ("a/b@v1?x", None), ("a/b\n", None),
    ],
)  # fmt: skip
def test_a_source_is_a_repository_and_a_revision(text: str, found: tuple[str, str] | None) -> None:
    if found:
        assert source_of(text) == found
    else:
        with pytest.raises(UsageError, match="expected hf:OWNER/NAME"):
            source_of(text)
