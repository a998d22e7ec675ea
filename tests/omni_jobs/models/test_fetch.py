"""Files come whole or not at all, from where they stopped."""

import errno
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from omni_jobs.errors import NotFound, OmniError, Refused
from omni_jobs.models import fetch as module
from omni_jobs.models.fetch import Mismatch, NoRoom, fetch
from omni_jobs.models.hub import Hub, HubDown
from omni_jobs.models.record import ModelFile, part_of
from tests.omni_jobs.models import needs
from tests.omni_jobs.models.fake_hub import ID, FakeHub, digest

pytestmark = needs.weights
SHARD, OTHER, SMALL = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "config.json"
Fetch = Callable[..., list[ModelFile]]


class Told:
    """What a progress display would show."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, count: int) -> None:
        self.count += count


@pytest.fixture
def into(hub: FakeHub, tmp_path: Path) -> Fetch:
    """Fetches files of the hub into the test's folder, and looks whether the progress came out right."""

    def call(*names: str) -> list[ModelFile]:
        client, told = Hub(), Told()
        repository = client.repository(ID, "main")
        files = [file for file in repository.files if file.name in names]
        found = fetch(client, repository, files, tmp_path, told)
        assert told.count == sum(len(hub.files[name]) for name in names)
        return found

    return call


def test_files_come_as_they_are_with_their_digests(hub: FakeHub, into: Fetch, tmp_path: Path) -> None:
    found = into(SHARD, SMALL)
    assert {file.name: file.sha256 for file in found} == {name: digest(hub.files[name]) for name in (SMALL, SHARD)}
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == {
        name: hub.files[name] for name in (SHARD, SMALL)
    }


@pytest.mark.parametrize("seed", range(6))
def test_a_line_that_breaks_anywhere_costs_nothing_twice(hub: FakeHub, into: Fetch, tmp_path: Path, seed: int) -> None:
    chance, size = random.Random(seed), len(hub.files[SHARD])
    # Two attempts without a byte are what is borne here; these bring some each.
    hub.cuts = {SHARD: [chance.randrange(1, size // 4) for _ in range(4)], SMALL: [chance.randrange(1, 99)]}
    into(SHARD, SMALL)
    assert (tmp_path / SHARD).read_bytes() == hub.files[SHARD]
    assert len(hub.ranges_of(SHARD)) == 5 and hub.ranges_of(SHARD)[0] is None
    starts = [int(asked[6:-1]) for asked in hub.ranges_of(SHARD)[1:] if asked]
    assert len(starts) == 4 and starts == sorted(starts) and starts[0] > 0
    assert hub.sent_bytes[SHARD] == size


def test_a_hub_that_stays_away_is_given_up_and_what_came_is_kept(hub: FakeHub, into: Fetch, tmp_path: Path) -> None:
    hub.cuts = {SHARD: [500_000, 0, 0, 0]}
    with pytest.raises(HubDown):
        into(SHARD)
    part = part_of(tmp_path / SHARD)
    assert part.read_bytes() == hub.files[SHARD][:500_000] and not (tmp_path / SHARD).exists()
    into(SHARD)
    assert hub.ranges_of(SHARD)[-1] == "bytes=500000-" and not part.exists()


@pytest.mark.parametrize("held", [0, 1, 4096, -1, None])
def test_what_is_here_is_read_again_and_not_fetched_again(
    hub: FakeHub, into: Fetch, tmp_path: Path, held: int | None
) -> None:
    part_of(tmp_path / SHARD).write_bytes(hub.files[SHARD][:held])
    into(SHARD)
    assert (tmp_path / SHARD).read_bytes() == hub.files[SHARD]
    size = len(hub.files[SHARD])
    sent = {0: size, None: 0, -1: 1}.get(held, size - (held or 0))
    assert hub.sent_bytes.get(SHARD, 0) == sent


@pytest.mark.parametrize("spoilt", ["part", "whole", "longer"])
def test_what_is_here_and_wrong_is_fetched_anew(hub: FakeHub, into: Fetch, tmp_path: Path, spoilt: str) -> None:
    data = bytearray(hub.files[SHARD])
    data[7] ^= 1
    if spoilt == "part":
        part_of(tmp_path / SHARD).write_bytes(data[:9000])
    else:
        (tmp_path / SHARD).write_bytes(data + b"more" * (spoilt == "longer"))
    into(SHARD)
    assert (tmp_path / SHARD).read_bytes() == hub.files[SHARD]


@pytest.mark.parametrize("name", [SHARD, SMALL])
def test_a_file_that_is_not_what_was_said_never_gets_its_name(
    hub: FakeHub, into: Fetch, tmp_path: Path, name: str
) -> None:
    hub.bent = {name}
    with pytest.raises(Mismatch, match=rf"{name}: expected (sha-256|the git blob) [0-9a-f]+, got"):
        into(name)
    assert not (tmp_path / name).exists() and part_of(tmp_path / name).stat().st_size == 0
    hub.bent = set()
    into(name)
    assert (tmp_path / name).read_bytes() == hub.files[name]


def test_a_file_without_end_is_cut_off(hub: FakeHub, tmp_path: Path) -> None:
    client = Hub()
    repository = client.repository(ID, "main")
    short = ModelFile(SHARD, 70_000, sha256="0" * 64)
    with pytest.raises(Mismatch, match="expected 70,000 bytes, got more"):
        fetch(client, repository, [short], tmp_path, Told())
    assert part_of(tmp_path / SHARD).stat().st_size == 0


def test_a_server_without_ranges_begins_anew(hub: FakeHub, into: Fetch, tmp_path: Path) -> None:
    hub.ranges, hub.cuts = False, {SHARD: [700_000]}
    into(SHARD)
    assert (tmp_path / SHARD).read_bytes() == hub.files[SHARD]
    assert hub.sent_bytes[SHARD] == 700_000 + len(hub.files[SHARD])


@pytest.mark.parametrize(("given", "kind"), [({"status": 404}, NotFound), ({"gated": True}, Refused)])
def test_what_trying_again_cannot_mend_is_asked_once(
    hub: FakeHub, into: Fetch, given: dict[str, object], kind: type[OmniError]
) -> None:
    for name, value in given.items():
        setattr(hub, name, value)
    with pytest.raises(kind):
        into(SHARD)
    assert len([one for one in hub.asked if "/resolve/" in one.path]) == 1


def test_a_hub_that_is_busy_is_asked_again(hub: FakeHub, into: Fetch) -> None:
    hub.status = 503
    with pytest.raises(HubDown, match="answers 503"):
        into(SHARD)
    assert len([one for one in hub.asked if "/resolve/" in one.path]) == 1 + len(module.PAUSES_S)


def test_one_failure_ends_them_all_and_keeps_what_came(hub: FakeHub, into: Fetch, tmp_path: Path) -> None:
    hub.pause_s = 0.02
    hub.files[OTHER] = b"short"
    hub.bent = {OTHER}
    with pytest.raises(Mismatch, match=OTHER):
        into(SHARD, OTHER)
    held = part_of(tmp_path / SHARD).read_bytes()
    assert len(held) < len(hub.files[SHARD]) and hub.files[SHARD].startswith(held)


def test_a_full_disk_is_said_and_what_came_is_kept(
    hub: FakeHub, into: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, room = module._write, [600_000]

    def until_full(out: object, data: bytes) -> None:
        taken = data[: room[0]]
        room[0] -= len(taken)
        write(out, taken)  # type: ignore[arg-type]
        if taken != data:
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "_write", until_full)
    with pytest.raises(NoRoom, match="the disk is full; what came is kept"):
        into(SHARD)
    assert part_of(tmp_path / SHARD).read_bytes() == hub.files[SHARD][:600_000]
    room[0] = 10**9
    into(SHARD)
    assert hub.ranges_of(SHARD)[-1] == "bytes=600000-"


def test_a_folder_that_cannot_be_written_is_said(hub: FakeHub, into: Fetch, tmp_path: Path) -> None:
    part_of(tmp_path / SHARD).mkdir()
    with pytest.raises(Refused, match="cannot be written: Is a directory"):
        into(SHARD)
