"""SeaweedFS: one process with master, volume server, filer and S3 gateway, locked down.

Its gRPC ports take anyone on this machine: the embedded store is for machines with trusted local users.
"""

import json
import socket
from pathlib import Path

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from omni_jobs.embedded.account import own_file, own_folder
from omni_jobs.embedded.binaries import reachable, seaweedfs_binary
from omni_jobs.embedded.home import Home
from omni_jobs.embedded.ports import LOOPBACK
from omni_jobs.embedded.process import Process
from omni_jobs.embedded.server import PLAIN_ENV, Server

BUCKET = "omni"
PROBE_KEY = ".ready"
REGION = "us-east-1"
# In the order of `ports`.
LISTENERS = ("master", "volume", "filer", "s3")

JWT_KEYS = (
    "WEED_JWT_SIGNING_KEY",
    "WEED_JWT_SIGNING_READ_KEY",
    "WEED_JWT_FILER_SIGNING_KEY",
    "WEED_JWT_FILER_SIGNING_READ_KEY",
)


class SeaweedFS(Server):
    name = "s3"
    ports_needed = 2 * len(LISTENERS)

    def __init__(self, home: Home, runtime: Path) -> None:
        super().__init__(home, runtime)
        self.access_key = home.secret("s3.access")
        self.secret_key = home.secret("s3.secret")
        self.signing_key = home.secret("s3.jwt")
        self.binary = reachable(seaweedfs_binary(), self.account, home / "bin")

    @property
    def url(self) -> str:
        return f"s3://{BUCKET}"

    @property
    def endpoint(self) -> str:
        return f"http://{LOOPBACK}:{self.ports[LISTENERS.index('s3')]}"

    @property
    def scraps(self) -> list[Path]:
        """Sockets whose place it does not let us choose."""
        rpc = zip(LISTENERS, self._rpc_ports, strict=True)
        return [Path(f"/tmp/seaweedfs-{name}-grpc-{port}.sock") for name, port in rpc]

    def command(self) -> Process:
        own_folder(self.data, self.account)
        own_folder(self.data / "data", self.account)
        own_folder(self.runtime, self.account)
        config = own_file(self.data / "s3.json", json.dumps(self._identities()), self.account)
        return Process(
            self.name,
            [self.binary, "-logtostderr=true", "server", *self._options(config)],
            log_path=self.home.logs / f"{self.name}.log",
            env={**PLAIN_ENV, "HOME": str(self.data), **dict.fromkeys(JWT_KEYS, self.signing_key)},
            # A security.toml in the working directory would be read.
            cwd=self.data,
            account=self.account,
        )

    def answers(self) -> bool:
        """Stores an object: a server that lists its buckets cannot always do that yet."""
        if not self._listens():
            return False
        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(
                retries={"total_max_attempts": 1},
                connect_timeout=1,
                read_timeout=3,
                s3={"addressing_style": "path"},
                proxies={},
            ),
        )
        try:
            if BUCKET not in [bucket["Name"] for bucket in client.list_buckets()["Buckets"]]:
                client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key=PROBE_KEY, Body=b"ready")
            client.delete_object(Bucket=BUCKET, Key=PROBE_KEY)
        except (BotoCoreError, ClientError):
            return False
        finally:
            client.close()
        return True

    def stop(self) -> None:
        """SIGKILL: SIGTERM takes 16 s, and what was acknowledged is on disk."""
        if self.process is not None:
            self.process.kill()
            for scrap in self.scraps:
                scrap.unlink(missing_ok=True)

    def _listens(self) -> bool:
        try:
            with socket.create_connection((LOOPBACK, self.ports[LISTENERS.index("s3")]), timeout=1):
                return True
        except OSError:
            return False

    @property
    def _rpc_ports(self) -> list[int]:
        return self.ports[len(LISTENERS) :]

    def _identities(self) -> dict:
        credentials = [{"accessKey": self.access_key, "secretKey": self.secret_key}]
        actions = ["Admin", "Read", "Write", "List", "Tagging"]
        return {"identities": [{"name": BUCKET, "credentials": credentials, "actions": actions}]}

    def _options(self, config: Path) -> list[str]:
        listeners = zip(LISTENERS, self.ports, self._rpc_ports, strict=False)
        ports = [word for name, http, rpc in listeners for word in (f"-{name}.port={http}", f"-{name}.port.grpc={rpc}")]
        return [
            f"-dir={self.data / 'data'}",
            f"-ip={LOOPBACK}",
            f"-ip.bind={LOOPBACK}",
            *ports,
            # Its default reports to the vendor.
            "-master.telemetry=false",
            "-master.volumeSizeLimitMB=64",
            # One master and no other: without this it looks for others for 1.5 s and more, and when the volume server
            # greets it meanwhile, that tries again only after 5 s. Ready in 2.4 s instead of 3.2 to 7.5 s.
            "-master.peers=none",
            # Its default would wait 10 s for an election.
            "-master.electionTimeout=1s",
            "-master.heartbeatInterval=100ms",
            "-volume.max=0",
            "-volume.preStopSeconds=1",
            "-filer",
            # It takes unsigned requests.
            "-filer.disableHttp",
            f"-filer.localSocket={self.runtime / 'filer.sock'}",
            "-s3",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            f"-s3.config={config}",
            f"-s3.localSocket={self.runtime / 's3.sock'}",
            "-s3.iam=false",
            "-s3.autoCreateBucket=false",
            "-s3.allowDeleteBucketNotEmpty=false",
        ]
