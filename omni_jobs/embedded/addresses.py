"""Where every part is: our own server's address, or the one that the settings give."""

from collections.abc import Mapping

from omni_jobs.embedded.s3 import SeaweedFS
from omni_jobs.embedded.server import Server
from omni_jobs.settings import Settings

# Each with the setting that replaces it.
PARTS = {"postgres": "database_url", "valkey": "broker_url", "s3": "blob_url"}
STORE_ACCESS = ("s3_endpoint", "s3_access_key", "s3_secret_key")


def addresses(settings: Settings, servers: Mapping[str, Server]) -> dict[str, str]:
    """The fields of `State`, and of `Settings`, that lead to the parts."""
    found = {field: getattr(settings, field) for field in (*PARTS.values(), *STORE_ACCESS)}
    found |= {PARTS[name]: server.url for name, server in servers.items()}
    store = servers.get("s3")
    if isinstance(store, SeaweedFS):
        found |= dict(zip(STORE_ACCESS, (store.endpoint, store.access_key, store.secret_key), strict=True))
    return found
