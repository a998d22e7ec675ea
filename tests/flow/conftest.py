"""One whole stack for the tests of this folder: the servers, the API, every worker, a watched folder and bucket."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import psycopg
import pytest
from psycopg.rows import dict_row

from omni_jobs.client import Client
from omni_jobs.embedded.client import Stack, connect, stop
from omni_jobs.settings import Settings
from workers import samples

START_TIMEOUT_S = 120.0


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one recording, two videos and a PDF."""
    folder = tmp_path_factory.mktemp("inputs")
    try:
        samples.write(folder)
    except Exception as error:
        pytest.skip(str(error))
    return folder


class Running:
    """The stack, and what tests do with it."""

    def __init__(self, folder: Path, stack: Stack) -> None:
        self.folder, self.stack, self.state = folder, stack, stack.state
        self.client = Client(stack.state.api_url, stack.settings.api_key)
        self.inbox, self.shelf = folder / "inbox", folder / "shelf"

    def sql(self, query: str, *parameters: Any) -> list[dict[str, Any]]:
        with psycopg.connect(self.state.database_url, row_factory=dict_row, autocommit=True) as connection:
            return connection.execute(query, parameters).fetchall()  # type: ignore[arg-type]

    def done(self, job: dict[str, Any], timeout_s: float = 180.0) -> dict[str, Any]:
        """The job once it has ended."""
        end = time.monotonic() + timeout_s
        while job["state"] in ("queued", "running"):
            assert time.monotonic() < end, f"job {job['id']} is {job['state']} in {job['phase']}: {self.logs()}"
            job = self.client.get(job["id"], wait=5)
        return job

    def submit(self, path: Path, **request: Any) -> dict[str, Any]:
        return self.client.submit_file(path, request)

    def result(self, job: dict[str, Any], format: str) -> bytes:
        return b"".join(self.client.result(job["id"], format))

    def bucket(self) -> Any:
        return boto3.client(
            "s3",
            endpoint_url=self.state.s3_endpoint,
            aws_access_key_id=self.state.s3_access_key,
            aws_secret_access_key=self.state.s3_secret_key,
            region_name="us-east-1",
        )

    def command(self, *arguments: str, **more: Any) -> "subprocess.CompletedProcess[str]":
        """`omni-jobs ARGUMENTS` as a person runs it."""
        environment = {**os.environ, "OMNI_HOME": str(self.folder / "home")}
        return subprocess.run(
            [sys.executable, "-m", "omni_jobs.cli", *arguments],
            **{"env": environment, "capture_output": True, "text": True, "timeout": 240, **more},
        )

    def logs(self) -> str:
        """The end of every log, for a failing test."""
        files = sorted((self.folder / "home" / "logs").glob("*.log"))
        return "\n".join(f"== {file.name}\n{file.read_text(errors='replace')[-1500:]}" for file in files)


def eventually(holds: Callable[[], Any], timeout_s: float = 60.0, every_s: float = 0.1) -> Any:
    """What `holds` returns once it is true."""
    end = time.monotonic() + timeout_s
    while not (found := holds()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(every_s)
    return found


@pytest.fixture(scope="session")
def stack() -> Iterator[Running]:
    folder = Path(tempfile.mkdtemp(prefix="omni flow "))
    folder.chmod(0o755)
    for name in ("inbox", "shelf"):
        (folder / name).mkdir()
    settings = Settings(home=folder / "home", file_roots=(folder / "shelf",), settle_s=0.5, poll_s=0.5, lease_s=10)
    command = [sys.executable, "-m", "omni_jobs.embedded", "--linger", "30"]
    command += ["--watch", str(folder / "inbox"), "--watch", "s3://omni/incoming"]
    try:
        with connect(settings, command=command, timeout_s=START_TIMEOUT_S) as running:
            yield Running(folder, running)
    finally:
        stop(folder / "home")
        shutil.rmtree(folder, ignore_errors=True)
