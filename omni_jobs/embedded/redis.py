"""Valkey: the Redis protocol for Celery's wake-ups."""

import signal
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from omni_jobs.embedded.account import own_file, own_folder
from omni_jobs.embedded.binaries import reachable, valkey_binary
from omni_jobs.embedded.home import Home
from omni_jobs.embedded.ports import LOOPBACK
from omni_jobs.embedded.process import Process
from omni_jobs.embedded.server import PLAIN_ENV, Server

STOP_S = 5.0

# In a file, because a command line is everybody's to read.
CONFIG = """\
bind {host}
port {port}
protected-mode yes
requirepass {password}
dir {folder}
appendonly yes
appendfsync everysec
save ""
maxmemory 256mb
maxmemory-policy noeviction
daemonize no
logfile ""
"""


class Valkey(Server):
    name = "valkey"

    def __init__(self, home: Home, runtime: Path) -> None:
        super().__init__(home, runtime)
        self.password = home.secret("valkey")
        self.binary = reachable(valkey_binary(), self.account, home / "bin")

    @property
    def url(self) -> str:
        return f"redis://:{self.password}@{LOOPBACK}:{self.ports[0]}/0"

    def command(self) -> Process:
        own_folder(self.data, self.account)
        config = own_file(self.data / "valkey.conf", self._config(), self.account)
        log_path = self.home.logs / f"{self.name}.log"
        return Process(
            self.name, [self.binary, config], log_path=log_path, env=PLAIN_ENV, cwd=self.data, account=self.account
        )

    def answers(self) -> bool:
        try:
            # Its own retries would sleep between two looks.
            once = Retry(NoBackoff(), 0)
            with redis.Redis.from_url(self.url, socket_connect_timeout=1, socket_timeout=1, retry=once) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False

    def stop(self) -> None:
        """SIGTERM writes what is left; it does not end a server whose folder is gone."""
        if self.process is not None:
            self.process.send(signal.SIGTERM)
            self.process.wait(STOP_S)
            self.process.kill()

    def _config(self) -> str:
        return CONFIG.format(host=LOOPBACK, port=self.ports[0], password=self.password, folder=_quoted(self.data))


def _quoted(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
