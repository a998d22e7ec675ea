"""Who may call the API: one key, compared in constant time, and the names the server goes by."""

import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from omni_jobs.errors import Refused
from omni_jobs.settings import Settings

ANY_HOST = "*"


class NoKey(Refused):
    """The request carries no key, or a wrong one."""


class WrongHost(Refused):
    """The request was meant for another server, or comes out of a page of another site."""


@dataclass(frozen=True, slots=True)
class Gate:
    """What a request must show.

    Attributes:
        key: empty: everybody who reaches the port may come in.
        hosts: names and addresses in `Host` and `Origin` that mean us. A page that a browser was lured to, or whose
            name was pointed at 127.0.0.1 (DNS rebinding), sends its own.
    """

    key: str = field(repr=False)
    hosts: frozenset[str]

    @classmethod
    def of(cls, settings: Settings) -> "Gate":
        hosts = frozenset(host_name(host) for host in settings.allowed_hosts)
        return cls(read_key(settings), hosts)

    def check_host(self, host: str | None, origin: str | None) -> None:
        """
        Raises:
            WrongHost: not our name.
        """
        if ANY_HOST in self.hosts:
            return
        if host is None or host_name(host) not in self.hosts:
            raise WrongHost(f"this server does not answer for the host {host!r}: add it to OMNI_ALLOWED_HOSTS")
        if origin is not None and _host_of(origin) not in self.hosts:
            raise WrongHost(f"pages of {origin!r} may not call this server: add its host to OMNI_ALLOWED_HOSTS")

    def check_key(self, headers: Mapping[str, str]) -> None:
        """
        Args:
            headers: names in lower case.

        Raises:
            NoKey: no key came, or another one.
        """
        if not self.key:
            return
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer.strip() if scheme.lower() == "bearer" else headers.get("x-api-key", "")
        if not given:
            raise NoKey("expected the key as `Authorization: Bearer KEY` or `X-Api-Key: KEY`")
        if not hmac.compare_digest(given.encode(), self.key.encode()):
            raise NoKey("the key is not the one of this server")


def read_key(settings: Settings) -> str:
    """The key of this installation; empty when it has none.

    Raises:
        Refused: it has one that we may not read.
    """
    if settings.api_key:
        return settings.api_key
    path = settings.home / "key"
    try:
        return path.read_text().strip()
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        raise Refused(f"cannot read the key {path}: {error.strerror}") from error


def require_key_off_loopback(settings: Settings) -> None:
    """
    Raises:
        Refused: other machines could reach the port and nothing would ask them for a key.
    """
    if not is_loopback(settings.api_host) and not read_key(settings):
        raise Refused(f"OMNI_API_HOST is {settings.api_host}, which others can reach: set OMNI_API_KEY first")


def is_loopback(host: str) -> bool:
    """Whether a host's name or address means this machine alone."""
    name = host_name(host)
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _host_of(origin: str) -> str:
    try:
        return host_name(urlsplit(origin).netloc)
    except ValueError:  # an address in brackets that is none
        return ""


def host_name(host: str) -> str:
    """A `Host` header less port and case: `LocalHost.:80` is `localhost`, `[::1]:80` is `[::1]`."""
    host = host.strip().lower()
    if host.startswith("["):
        return host.partition("]")[0] + "]"
    if host.count(":") > 1:
        return f"[{host}]"
    return host.partition(":")[0].rstrip(".")
