"""The whole stack on real servers; the API and the workers are stand-ins."""

import os
import pwd
import shutil
import signal
import sys
import time
from pathlib import Path

import boto3
import psycopg
import pytest
import redis
from botocore import UNSIGNED
from botocore.config import Config
from botocore.exceptions import ClientError
from redis.backoff import NoBackoff
from redis.retry import Retry

from omni_jobs.embedded.account import Account
from omni_jobs.embedded.door import knock
from omni_jobs.embedded.home import running
from omni_jobs.embedded.state import State
from tests.waiting import eventually

from .conftest import Supervised, become, processes_of

pytestmark = pytest.mark.servers

# Busy on the CPU: it never waits for its client, so nothing tells it of a lost one but its own checks.
ENDLESS = "select count(*) from generate_series(1, 1000000000000)"


def store(state: State, **config: object):
    return boto3.client(
        "s3",
        endpoint_url=state.s3_endpoint,
        region_name="us-east-1",
        aws_access_key_id=state.s3_access_key,
        aws_secret_access_key=state.s3_secret_key,
        config=Config(retries={"total_max_attempts": 2}, **config),
    )


def note(state: State, text: str) -> None:
    with psycopg.connect(state.database_url) as connection:
        connection.execute("insert into omni.notes values (%s)", [text])


def notes(state: State) -> list[str]:
    with psycopg.connect(state.database_url) as connection:
        return [text for (text,) in connection.execute("select note from omni.notes")]


def test_postgres_keeps_what_it_acknowledges_and_wants_the_password(stack: Supervised) -> None:
    state = stack.ready()
    with psycopg.connect(state.database_url) as connection:
        settings = {
            name: connection.execute(f"show {name}").fetchone()
            for name in ("fsync", "synchronous_commit", "max_connections", "server_encoding")
        }
        owner = connection.execute("select current_user, current_database()").fetchone()
    assert settings == {
        "fsync": ("on",),
        "synchronous_commit": ("on",),
        "max_connections": ("200",),
        "server_encoding": ("UTF8",),
    }
    assert owner == ("omni", "omni")
    at = psycopg.conninfo.conninfo_to_dict(state.database_url)
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(**{**at, "password": "guess"})


def test_valkey_answers_with_its_password_and_refuses_without(stack: Supervised) -> None:
    state = stack.ready()
    with redis.Redis.from_url(state.broker_url) as client:
        assert client.ping()
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        port = client.connection_pool.connection_kwargs["port"]
    with redis.Redis(port=port, retry=Retry(NoBackoff(), 0)) as stranger, pytest.raises(redis.AuthenticationError):
        stranger.ping()


def test_the_store_keeps_objects_and_refuses_the_unsigned(stack: Supervised) -> None:
    state = stack.ready()
    assert state.blob_url == "s3://omni"
    store(state).put_object(Bucket="omni", Key="a/b", Body=b"bytes")
    assert store(state).get_object(Bucket="omni", Key="a/b")["Body"].read() == b"bytes"
    stranger = store(state, signature_version=UNSIGNED)
    with pytest.raises(ClientError, match="Denied"):
        stranger.get_object(Bucket="omni", Key="a/b")
    with pytest.raises(ClientError, match="Denied"):
        stranger.put_object(Bucket="omni", Key="c", Body=b"")


def test_secrets_are_in_no_command_line_and_no_readable_file(stack: Supervised) -> None:
    state = stack.ready()
    secrets = [state.s3_secret_key, psycopg.conninfo.conninfo_to_dict(state.database_url)["password"]]
    lines = "\n".join(processes_of(stack.home).values())
    assert lines.count("postgres") and not any(secret in lines for secret in secrets)
    for path in (
        stack.home / "key",
        stack.home / "state.json",
        *(stack.home / "secrets").iterdir(),
        Path(state.socket),
    ):
        assert path.stat().st_mode & 0o077 == 0, path


def test_a_second_supervisor_on_the_same_home_is_refused_with_the_pid(stack: Supervised) -> None:
    second = Supervised(stack.home)
    assert second.process.wait(20) != 0
    assert f"pid {stack.process.pid}" in second.said()
    second.end()


def test_a_killed_valkey_comes_back_at_the_same_address(stack: Supervised) -> None:
    state = stack.ready()
    os.kill(state.children["valkey"].pid, signal.SIGKILL)

    def answers() -> bool:
        try:
            with redis.Redis.from_url(state.broker_url) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    # Not at once: what answers must be the new one.
    assert eventually(lambda: stack.ready().children["valkey"] != state.children["valkey"])
    assert eventually(answers)


def test_a_killed_worker_and_a_killed_postgres_come_back(stack: Supervised) -> None:
    state = stack.ready()
    names = ("worker-cpu", "postgres")
    for name in names:
        os.kill(state.children[name].pid, signal.SIGKILL)
    assert eventually(lambda: all(stack.ready().children[name] != state.children[name] for name in names))

    def answers() -> bool:
        try:
            return notes(state) is not None
        except psycopg.OperationalError:
            return False

    assert eventually(answers, timeout_s=10)


def test_parts_with_an_address_are_used_and_an_open_job_keeps_the_stack(stack: Supervised, homes: Path) -> None:
    state = stack.ready()
    names = ("database_url", "broker_url", "blob_url", "s3_endpoint", "s3_access_key", "s3_secret_key")
    given = {f"OMNI_{name.upper()}": getattr(state, name) for name in names}
    with psycopg.connect(state.database_url, autocommit=True) as connection:
        connection.execute("insert into omni.jobs values ('running')")
        guest = Supervised(homes / "guest", "--linger", "0.2", variables=given)
        theirs = guest.ready()
        assert set(theirs.children) == {"api", "worker-cpu"}
        assert [getattr(theirs, name) for name in names] == [getattr(state, name) for name in names]
        assert not eventually(lambda: guest.process.poll() is not None, timeout_s=1.5)
        connection.execute("delete from omni.jobs")
    assert eventually(lambda: guest.process.poll() == 0)
    guest.end()


def test_what_a_killed_worker_had_started_is_ended_by_the_next_supervisor(stack: Supervised, homes: Path) -> None:
    state = stack.ready()
    given = {"OMNI_DATABASE_URL": state.database_url, "OMNI_BROKER_URL": state.broker_url, "OMNI_BLOB_URL": "file:///"}
    home = homes / "orphans"
    first = Supervised(home, "--grandchild", variables=given)
    first.ready()
    assert eventually(lambda: "sleep" in " ".join(processes_of(home).values()))
    first.process.kill()
    first.process.wait()
    assert eventually(lambda: [line.split()[0] for line in processes_of(home).values()] == ["sleep"])
    first.end()
    second = Supervised(home, variables=given)
    second.ready()
    assert "sleep" not in " ".join(processes_of(home).values())
    second.end()


def test_an_ordinary_user_runs_a_second_home_beside_the_first(stack: Supervised, homes: Path) -> None:
    if os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root, and setpriv, to become somebody else")
    entry = pwd.getpwnam("nobody")
    if Account("nobody", entry.pw_uid, entry.pw_gid).blocked_at(Path(sys.prefix)):
        pytest.skip(f"nobody may not enter {sys.prefix}")
    user = entry.pw_uid
    folder = homes / "nobody's"
    folder.mkdir()
    os.chown(folder, user, user)
    second = Supervised(folder / "omni", run_by=become("nobody"))
    try:
        state, first = second.ready(), stack.ready()
        note(state, "second")
        store(state).put_object(Bucket="omni", Key="mine", Body=b"2")
        assert "second" not in notes(first)
        assert (folder / "omni").stat().st_mode & 0o777 == 0o700
        assert {(folder / "omni" / name).stat().st_uid for name in ("postgres", "valkey", "s3")} == {user}
    finally:
        second.end()
    assert second.process.returncode == 0
    assert eventually(lambda: not processes_of(folder))


def test_nothing_is_left_and_nothing_is_lost_after_sigkill_and_after_sigterm(homes: Path) -> None:
    home = homes / "killed"
    first = Supervised(home)
    state = first.ready()
    note(state, "kept")
    store(state).put_object(Bucket="omni", Key="kept", Body=b"kept")
    with redis.Redis.from_url(state.broker_url) as client:
        client.set("kept", "kept")
    time.sleep(1.1)  # appendfsync everysec
    busy = psycopg.connect(state.database_url)
    busy.pgconn.send_query(ENDLESS.encode())
    assert processes_of(home)
    first.process.kill()
    first.process.wait()
    busy.close()
    assert eventually(lambda: not processes_of(home)), processes_of(home)
    first.end()

    second = Supervised(home)
    again = second.ready()
    assert not Path(state.socket).parent.exists()
    assert notes(again) == ["kept"]
    assert store(again).get_object(Bucket="omni", Key="kept")["Body"].read() == b"kept"
    with redis.Redis.from_url(again.broker_url) as client:
        assert client.get("kept") == b"kept"
    assert (again.s3_secret_key, again.supervisor != state.supervisor) == (state.s3_secret_key, True)
    second.end()
    assert second.process.returncode == 0
    assert not processes_of(home)
    assert running(home) is None and not (home / "state.json").exists()
    assert not [scrap for scrap in again.scraps if Path(scrap).exists()]


def test_a_signal_while_it_starts_ends_it_in_order(homes: Path) -> None:
    home = homes / "hasty"
    hasty = Supervised(home)
    assert eventually(lambda: "valkey" in getattr(running(home), "children", {}), timeout_s=20)
    hasty.process.send_signal(signal.SIGINT)
    assert hasty.process.wait(10) == 0
    assert not processes_of(home)
    assert knock(str(home / "nowhere")) is None
    hasty.end()
