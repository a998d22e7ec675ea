"""The client against a real server on a real port: streaming, disconnects, errors."""

import hashlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, text

from omni_jobs.blobs import BlobStore, open_blobs
from omni_jobs.client import Client
from omni_jobs.errors import (
    Conflict,
    Damaged,
    ErrorType,
    NotFound,
    Problem,
    Refused,
    TooMany,
    Unavailable,
    UsageError,
)
from omni_jobs.job import Pool
from omni_jobs.settings import Settings
from omni_jobs.store import attempts, claims, jobs, open_database, tenants, workers
from omni_jobs.store.database import new_id
from tests.waiting import eventually

pytestmark = pytest.mark.servers

LARGE = 500 << 20
KEY = "a key"


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as chosen:
        return chosen.getsockname()[1]


class Server:
    """The API as its own process."""

    def __init__(self, settings: Settings, port: int | None = None) -> None:
        self.port = port or free_port()
        environment = {
            "PATH": "/usr/bin:/bin", "OMNI_HOME": str(settings.home), "OMNI_DATABASE_URL": settings.database_url,
            "OMNI_BLOB_URL": settings.blob_url, "OMNI_BROKER_URL": settings.broker_url, "OMNI_API_KEY": KEY,
            "OMNI_API_PORT": str(self.port), "OMNI_S3_SOURCES": "media",
        }  # fmt: skip
        self.process = subprocess.Popen([sys.executable, "-m", "omni_jobs.api"], env=environment)
        with Client(self.url, KEY) as client:
            deadline = time.monotonic() + 60
            while True:
                try:
                    client.health()
                    return
                except Unavailable:
                    if time.monotonic() > deadline or self.process.poll() is not None:
                        raise
                    time.sleep(0.05)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def memory_bytes(self) -> int:
        """The most it ever had of its own."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM"))


@pytest.fixture(scope="module")
def settings(file_database_url: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    folder = tmp_path_factory.mktemp("client")
    return Settings(
        home=folder / "home",
        database_url=file_database_url,
        blob_url=(folder / "blobs").as_uri(),
        broker_url="redis://127.0.0.1:1/0",
    )


@pytest.fixture(scope="module")
def server(settings: Settings) -> Iterator[Server]:
    server = Server(settings)
    try:
        yield server
    finally:
        server.process.terminate()
        server.process.wait(10)


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[Client]:
    with Client(server.url, KEY) as client:
        yield client


@pytest.fixture(scope="module")
def db(settings: Settings) -> Iterator[Engine]:
    engine = open_database(settings.database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def blobs(settings: Settings) -> BlobStore:
    return open_blobs(settings)


@pytest.fixture
def wav(tmp_path: Path) -> Path:
    path = tmp_path / 'my "tälk".wav'
    path.write_bytes(b"RIFF" * 1000)
    return path


def test_a_file_goes_up_and_its_job_is_followed_to_its_end(client: Client, wav: Path, db: Engine) -> None:
    sent: list[int] = []
    job = client.submit_file(wav, {"task": "transcribe", "metadata": {"a": 1}}, on_sent=sent.append)
    assert (job["name"], job["task"], job["metadata"]) == (wav.name, ["transcribe"], {"a": 1})
    assert sent[-1] == 4000 and job["sources"][0]["size_bytes"] == 4000
    assert client.submit_file(wav, {"task": "transcribe"}, attach=True)["id"] == job["id"]
    assert client.get(job["id"])["state"] == "queued"
    assert job["id"] in {one["id"] for one in client.list(limit=10, state="queued")["jobs"]}
    assert [event["seq"] for event in client.events(job["id"])] == [1]
    with pytest.raises(Conflict, match="queued"):
        client.result(job["id"])
    threading.Timer(0.5, jobs.cancel, (db, "default", job["id"])).start()
    states: list[str] = []
    ended = client.wait(job["id"], lambda job: states.append(job["state"]))
    assert ended["state"] == "cancelled" and states == ["queued", "cancelled"]
    assert client.cancel(job["id"])["state"] == "cancelled"


def test_an_idempotency_key_makes_one_job(client: Client, wav: Path) -> None:
    key = new_id()
    first, again = (client.submit_file(wav, idempotency_key=key) for _ in range(2))
    assert first["id"] == again["id"]
    with pytest.raises(Conflict):
        client.submit_uri("s3://media/a.mp4", idempotency_key=key)


def test_mistakes_are_raised_as_what_they_are(client: Client, server: Server, wav: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as refused:
        client.submit_uri("https://example.org/a.mp4")
    assert (refused.value.kind, refused.value.pointer) == ("unsupported", "/uri")
    with pytest.raises(UsageError, match="dpi"):
        client.submit_file(wav, {"options": {"dpi": 1}})
    for lost in (new_id(), "../jobs", ""):
        with pytest.raises(NotFound):
            client.get(lost)
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(UsageError):
            client.submit_file(path)
    with Client(server.url, "wrong") as other, pytest.raises(Refused):
        other.submit_file(wav)
    with Client("http://127.0.0.1:1") as nobody, pytest.raises(Unavailable, match="does not answer"):
        nobody.list()
    for url in ("nonsense", "ftp://x", "http://[", ""):
        with pytest.raises(UsageError), Client(url) as odd:
            odd.list()


def test_a_large_upload_takes_no_memory(server: Server, client: Client, blobs: BlobStore, tmp_path: Path) -> None:
    large = tmp_path / "large.mp4"
    with large.open("wb") as file:
        file.truncate(LARGE)
    before = server.memory_bytes()
    started = time.monotonic()
    job = client.submit_file(large)
    seconds = time.monotonic() - started
    grown = server.memory_bytes() - before
    print(f"upload of {LARGE >> 20} MiB: {grown >> 20} MiB more memory, {LARGE / seconds / 1e6:.0f} MB/s")
    assert job["sources"][0]["size_bytes"] == LARGE
    assert grown < 50 << 20
    blobs.delete(f"default/{job['id']}/source/0")


def objects(settings: Settings) -> set[Path]:
    root = Path(settings.blob_url.removeprefix("file://"))
    return {path for path in root.rglob("*") if path.is_file()}


def begin_upload(server: Server, length: int) -> socket.socket:
    """A connection on which `length` bytes of a form are to follow, and its first part."""
    connection = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    head = b'--B\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    connection.sendall(
        b"POST /v1/jobs HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: a key\r\nContent-Length: %d\r\n"
        b"Content-Type: multipart/form-data; boundary=B\r\n\r\n" % (length + len(head)) + head
    )
    return connection


@pytest.mark.parametrize("sent", [0, 1000, 3 << 20])
def test_whoever_leaves_in_the_middle_leaves_nothing(
    server: Server, client: Client, settings: Settings, sent: int
) -> None:
    before = {one["id"] for one in client.list(limit=200)["jobs"]}
    kept = objects(settings)
    with begin_upload(server, 99_999_999) as connection:
        connection.sendall(bytes(sent))
        assert eventually(lambda: sent < 2000 or objects(settings) != kept, 10)
    assert eventually(lambda: objects(settings) == kept, 10)
    assert {one["id"] for one in client.list(limit=200)["jobs"]} == before


def test_a_mistake_that_comes_after_the_bytes_are_stored_deletes_them(server: Server, settings: Settings) -> None:
    kept = objects(settings)
    parts = (
        b'bytes\r\n--B\r\ncontent-disposition: form-data; name="request"\r\n\r\n',
        b'{"task": "sing"}\r\n--B--\r\n',
    )
    with begin_upload(server, len(b"".join(parts))) as connection:
        connection.sendall(parts[0])
        # A file on its way has a name that begins with a dot.
        assert eventually(lambda: any(path.name == "0" for path in objects(settings) - kept), 10)
        connection.sendall(parts[1])
        assert b" 422 " in connection.recv(100)
    assert eventually(lambda: objects(settings) == kept, 10), (kept, objects(settings))


def test_many_waiting_callers_do_not_keep_others_out(client: Client, server: Server) -> None:
    job = client.submit_uri("s3://media/a.mp4")
    waiting = [threading.Thread(target=client.get, args=(job["id"], 3.0)) for _ in range(60)]
    for one in waiting:
        one.start()
    time.sleep(0.5)
    started = time.monotonic()
    with Client(server.url, KEY) as other:
        assert other.get(job["id"])["id"] == job["id"]
    assert time.monotonic() - started < 2.5
    for one in waiting:
        one.join()


def test_a_restart_of_the_server_is_waited_for(settings: Settings, db: Engine) -> None:
    first = Server(settings)
    with Client(first.url, KEY) as client:
        job = client.submit_uri("s3://media/a.mp4")
        ended: list[dict[str, Any]] = []
        follower = threading.Thread(target=lambda: ended.append(client.wait(job["id"])))
        follower.start()
        time.sleep(0.3)
        stopping = time.monotonic()
        first.process.terminate()
        first.process.wait(10)
        assert time.monotonic() - stopping < 2.5
        jobs.cancel(db, "default", job["id"])
        second = Server(settings, first.port)
        follower.join(30)
        second.process.terminate()
        second.process.wait(10)
    assert ended and ended[0]["state"] == "cancelled"


def test_result_bytes_arrive_as_they_were(client: Client, db: Engine, blobs: BlobStore) -> None:
    from omni_jobs.store import results
    from omni_jobs.store.settle import locked

    job = client.submit_uri("s3://media/a.mp4")
    data = bytes(range(256)) * 10_000
    blobs.put("k", data)
    digest = hashlib.sha256(data).hexdigest()
    row = {"name": "text.txt", "format": "txt", "key": "k", "media_type": "text/plain", "size_bytes": len(data)}
    with locked(db, [job["id"]]) as (_, held):
        held[job["id"]].record("unit.done")
        results.commit(
            held[job["id"]],
            generation=1,
            prefix="p",
            answered_by={},
            artifacts=[{**row, "sha256": digest}],
            content={},
        )
    assert b"".join(client.result(job["id"], "txt")) == data
    with pytest.raises(NotFound, match="txt"):
        client.result(job["id"], "srt")
    blobs.put("k", data[:-1])
    with pytest.raises(Damaged, match="damaged"):
        client.result(job["id"], "txt")


@pytest.fixture
def full(db: Engine, client: Client) -> Iterator[str]:
    """As many jobs are open as may be: the one of this id."""
    job_id = client.submit_uri("s3://media/full.mp4")["id"]
    tenants.update(db, "default", max_open_jobs=1)
    yield job_id
    with db.begin() as tx:
        tx.execute(text("update omni.tenants set max_open_jobs = null"))


def test_an_upload_for_which_there_is_no_room_is_refused_before_it_is_sent(
    server: Server, full: str, settings: Settings, tmp_path: Path
) -> None:
    del full
    large = tmp_path / "large.mp4"
    with large.open("wb") as file:
        file.truncate(LARGE)
    kept, sent = objects(settings), [0]
    with Client(server.url, KEY, room_timeout_s=0) as hasty, pytest.raises(TooMany, match="open") as refused:
        hasty.submit_file(large, on_sent=sent.append)
    assert refused.value.retry_after_s > 0
    assert sent[-1] < LARGE and objects(settings) == kept


def test_who_submits_waits_for_room(
    client: Client, full: str, db: Engine, wav: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses: list[float] = []

    def room(pause_s: float) -> None:
        pauses.append(pause_s)
        if len(pauses) == 2:
            tenants.update(db, "default", max_open_jobs=1000)

    monkeypatch.setattr("omni_jobs.client.time.sleep", room)
    assert client.submit_file(wav)["id"] != full
    assert len(pauses) == 2 and all(4 <= pause_s <= 8 for pause_s in pauses) and pauses[0] != pauses[1]


def test_what_failed_is_looked_at_tried_again_and_deleted(client: Client, db: Engine) -> None:
    job_id = client.submit_uri("s3://media/a.mp4")["id"]
    worker = workers.register(db, pool="cpu", host="h", pid=1, pid_started=1, version="t", backend=None)
    for unit in claims.claim(db, worker, Pool.CPU, 1000):
        if unit.job_id == job_id:
            attempts.fail(db, unit, Problem(ErrorType.INTERNAL, "it broke"))
        else:
            attempts.release(db, unit)
    assert job_id in {one["job_id"] for one in client.dead(limit=5)}
    assert client.retry(job_id, password="hush")["revision"] == 2
    with pytest.raises(Conflict):
        client.retry(job_id)
    client.delete(job_id)
    for gone in (client.get, client.delete, client.retry):
        with pytest.raises(NotFound):
            gone(job_id)
