"""The model hub, through its official client: what a repository holds, and the bytes of its files.

Listing, token, proxies, redirects and the names of errors are huggingface_hub's. Its `hf_hub_download` is not used:
since 1.18 it begins a file of 4 GB anew after every interruption (its issue 4196, pull request 4228), and it takes what
a repository names. Bytes come over the client's session, from any offset. HF_ENDPOINT names another hub; the token is
that of HF_TOKEN or of `hf auth login`, and no sentence of ours ever shows it.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from omni_jobs.errors import NotFound, Refused, Unavailable, UsageError
from omni_jobs.models.record import ModelFile

# Heavy, and part of an extra: imported when there is something to ask.
if TYPE_CHECKING:
    import httpx2

ID = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]{0,95}/)?[A-Za-z0-9][A-Za-z0-9._-]{0,95}")
REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,199}")
COMMIT = re.compile(r"[0-9a-f]{40}")
TIMEOUT_S = 10.0
BUSY = (408, 429)


class HubDown(Unavailable):
    """It does not answer, breaks off or has too much to do: worth trying again from where it stopped."""


@dataclass(frozen=True, slots=True)
class Repository:
    """
    Attributes:
        commit: what the revision is at; everything is fetched at this one.
        files: all of them, each with its size and a digest.
    """

    id: str
    commit: str
    files: tuple[ModelFile, ...]


class Hub:
    """Safe to use from several threads.

    Raises:
        Refused: the client is not installed.
    """

    def __init__(self) -> None:
        # Read once, at import: without it the client asks the hub for more than we want of it.
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        try:
            from huggingface_hub import HfApi, constants
        except ImportError as error:
            raise Refused("the hub's client is not installed: pip install 'omni-jobs[engine]'") from error
        self.endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        self._api = HfApi(endpoint=self.endpoint, library_name="omni-jobs")

    @property
    def host(self) -> str:
        return urlsplit(self.endpoint).netloc.rpartition("@")[2] or self.endpoint

    def repository(self, id: str, revision: str) -> Repository:
        """What the hub says of a repository.

        Raises:
            UsageError: this cannot be the name of a repository.
            NotFound: no such repository or revision, or it is not shown to us.
            Refused: it wants a token, or another one.
            Unavailable: the hub does not answer, or what answers is no hub.
        """
        from huggingface_hub.errors import HFValidationError

        with self._errors(f"{id}@{revision}"):
            try:
                info = self._api.model_info(id, revision=revision, files_metadata=True, timeout=TIMEOUT_S)
                files = tuple(_file(one) for one in info.siblings or ())
            except HFValidationError as error:
                raise UsageError(f"{id}: not the name of a repository: {error}") from error
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                raise self._no_hub(f"a description of {id}") from error
        if not COMMIT.fullmatch(str(info.sha)):
            raise self._no_hub(f"the commit of {id}")
        return Repository(id, str(info.sha), files)

    @contextmanager
    def open(self, repository: Repository, name: str, start: int = 0) -> Iterator[tuple[int, Iterator[bytes]]]:
        """The bytes of a file, and the offset they begin at: `start`, or 0 where the server does not serve ranges.

        Raises:
            HubDown: it does not answer, or breaks off; also while the bytes are read.
            NotFound, Refused, Unavailable: as `repository`.
        """
        from huggingface_hub import get_session, hf_hub_url, hf_raise_for_status
        from huggingface_hub.utils import build_hf_headers

        url = hf_hub_url(repository.id, name, revision=repository.commit, endpoint=self.endpoint)
        headers = {**build_hf_headers(library_name="omni-jobs"), "Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        with (
            self._errors(f"{repository.id}: {name}"),
            # A redirect to another host, such as that of the storage, is followed without the token.
            get_session().stream("GET", url, headers=headers, timeout=TIMEOUT_S, follow_redirects=True) as response,
        ):
            hf_raise_for_status(response)
            if "html" in response.headers.get("Content-Type", ""):
                raise self._no_hub(f"the file {name}")
            begins = _begin_of(response)
            if begins not in (0, start):
                raise HubDown(f"{name}: expected bytes from {start:,} on, got some from {begins:,} on")
            yield begins, response.iter_bytes()

    def _no_hub(self, expected: str) -> Unavailable:
        return Unavailable(
            f"{self.host}: expected {expected}, got a page or something else that no hub sends;"
            " is HF_ENDPOINT right, and is there a proxy or a login page in between?"
        )

    @contextmanager
    def _errors(self, what: str) -> Iterator[None]:
        """The client's errors as ours. Their own sentences hold signed addresses, so ours are new ones."""
        from httpx2 import InvalidURL, RequestError
        from huggingface_hub import errors as theirs

        try:
            yield
        except theirs.OfflineModeIsEnabled as error:
            raise Unavailable("HF_HUB_OFFLINE is set: nothing is fetched while it is") from error
        except theirs.GatedRepoError as error:
            raise Refused(
                f"{what}: its owner wants terms to be accepted: do so at {self.host}, with the account whose token"
                " is in HF_TOKEN (or of `hf auth login`)"
            ) from error
        except theirs.HfHubHTTPError as error:
            raise self._refusal(what, error) from error
        except (RequestError, InvalidURL) as error:
            raise HubDown(
                f"{what}: {self.host} does not answer ({type(error).__name__}: {str(error)[:200]})"
            ) from error

    def _refusal(self, what: str, error: Any) -> Exception:
        from huggingface_hub import errors as theirs

        status = error.response.status_code
        match error:
            case theirs.RevisionNotFoundError():
                return NotFound(f"{what}: {self.host} has the repository, not that revision")
            case theirs.RemoteEntryNotFoundError():
                return NotFound(f"{what}: {self.host} has the repository, not that file")
            case theirs.RepositoryNotFoundError():
                return NotFound(f"{what}: no such repository at {self.host}, or a private one: then set HF_TOKEN")
        if status in (401, 403):
            return Refused(f"{what}: {self.host} does not take our token ({status}): check HF_TOKEN, or set one")
        if status == 404:
            return NotFound(f"{what}: {self.host} has no such thing")
        if status in BUSY or status >= 500:
            return HubDown(f"{what}: {self.host} answers {status}: try again later")
        return Unavailable(f"{what}: {self.host} answers {status}, which was not expected")


def source_of(text: str) -> tuple[str, str]:
    """`OWNER/NAME[@REVISION]` as both.

    Raises:
        UsageError: none of these.
    """
    id, _, revision = text.partition("@")
    revision = revision or "main"
    if not ID.fullmatch(id) or not REVISION.fullmatch(revision) or ".." in revision:
        raise UsageError(f"expected hf:OWNER/NAME or hf:OWNER/NAME@REVISION, got {f'hf:{text}'!r}")
    return id, revision


def _file(sibling: Any) -> ModelFile:
    """
    Raises:
        ValueError: the hub does not say its size or digest.
    """
    if sibling.lfs is not None:
        size_bytes, sha256, git_sha1 = sibling.lfs.size, sibling.lfs.sha256, ""
    else:
        size_bytes, sha256, git_sha1 = sibling.size, "", sibling.blob_id
    digits = sha256 or git_sha1 or ""
    if type(size_bytes) is not int or size_bytes < 0 or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", digits):
        raise ValueError(f"{sibling.rfilename}: no size or no digest")
    return ModelFile(sibling.rfilename, size_bytes, sha256, git_sha1)


def _begin_of(response: "httpx2.Response") -> int:
    if response.status_code != 206:
        return 0
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return int(found[1]) if found else -1
