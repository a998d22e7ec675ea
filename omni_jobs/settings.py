"""Every `OMNI_` variable: type, default, and a sentence. Read once when a process starts, then passed down."""

import os
from pathlib import Path
from typing import Annotated, Literal

from platformdirs import user_data_path
from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict


def default_home() -> Path:
    """Where the embedded servers keep their state.

    As root PostgreSQL runs as another user, who may not enter root's home: so it lies outside.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/omni-jobs")
    return user_data_path("omni-jobs")


class Settings(BaseSettings):
    """The settings of one process. Empty URLs mean: the embedded part, under `home`."""

    model_config = SettingsConfigDict(env_prefix="OMNI_", frozen=True, extra="ignore")

    home: Path = Field(default_factory=default_home, description="State folder of the embedded servers.")
    tenant: str = Field(default="default", pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", description="Tenant of this process.")

    # The parts; a URL replaces the embedded one.
    database_url: str = Field(default="", description="postgresql://... of an existing server; empty: embedded.")
    broker_url: str = Field(default="", description="redis://... of an existing server; empty: embedded.")
    blob_url: str = Field(
        default="", description="s3://bucket[/prefix] or file:///folder for our objects; empty: embedded."
    )
    s3_endpoint: str = Field(
        default="", description="Endpoint of an S3 server that is not AWS, such as http://host:8333."
    )
    s3_access_key: str = Field(default="", description="Access key of the object store; empty: boto3's own search.")
    s3_secret_key: str = Field(default="", description="Secret key of the object store.", repr=False)
    s3_region: str = Field(default="us-east-1", description="Region of the object store.")
    s3_sources: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(), description="Buckets, comma-separated, that `s3://` sources may name besides our own."
    )
    file_roots: Annotated[tuple[Path, ...], NoDecode] = Field(
        default=(), description="Folders, colon-separated, below which `file:` sources may lie. Empty: none."
    )

    # The API.
    api_host: str = Field(default="127.0.0.1", description="Address the API binds.")
    api_port: int = Field(default=0, ge=0, le=65535, description="Port of the API; 0: a free one.")
    api_url: str = Field(default="", description="Where clients find the API; empty: the running stack under `home`.")
    api_key: str = Field(default="", description="Key that clients present; empty: read from `home`/key.", repr=False)
    allowed_hosts: Annotated[tuple[str, ...], NoDecode] = Field(
        default=("127.0.0.1", "localhost", "[::1]"), description="Host headers the API answers, comma-separated."
    )
    max_upload_bytes: int = Field(default=50 * 2**30, ge=1, description="Largest source taken in.")

    # Work.
    backend: str = Field(
        default="embedded",
        pattern=r"^(embedded|remote|local|[\w.]+:\w+)$",
        description="Who answers units: `embedded`, `remote` (a model server), `local` (our own engine), or your own "
        "`package.module:Class`.",
    )
    model: str = Field(
        default="", description="Weights of our own engine: a name of `omni-jobs model list`, or a directory."
    )
    models_dir: Path | None = Field(
        default=None,
        description="Where `omni-jobs model add` keeps weights, up to 62 GB each; default: `home`/models.",
    )
    whisper: str = Field(
        default="base", description="`base`, `fast` (tiny.en), or a folder with a CTranslate2 Whisper model."
    )
    threads: int = Field(default=2, ge=1, description="CPU threads one model call may use.")
    keep_sources: Literal["copy", "reference"] = Field(
        default="copy",
        description="`copy`: the snapshot stays in the object store; `reference`: it goes when the job ends.",
    )
    keep_days: float = Field(
        default=0.0, ge=0, description="Jobs, rows and objects are deleted so many days after the job ended; 0: never."
    )
    max_open_jobs: int = Field(
        default=20_000, ge=1, description="A tenant with about so many open jobs gets 429 (see `omni-jobs tenant set`)."
    )
    ready_s: float = Field(
        default=1800.0, gt=0, description="With so many seconds of work ready for the gpu pool, prepare waits."
    )
    ready_bytes: int = Field(
        default=20 * 2**30, ge=1, description="With so many bytes of canonical media ready, prepare waits."
    )
    lease_s: float = Field(default=30.0, gt=0, description="A worker that is silent for so long loses its units.")
    stall_s: float = Field(
        default=180.0, gt=0, description="A worker whose units do not progress for so long stops beating."
    )
    drain_s: float = Field(
        default=5.0, ge=0, description="On SIGTERM running units get so long before they are handed back."
    )
    poll_s: float = Field(default=1.0, gt=0, description="How often watchers and `maintain` look.")
    settle_s: float = Field(
        default=2.0, ge=0, description="A watched file must not change for so long before it is taken."
    )
    child_memory_bytes: int = Field(default=2 * 2**30, description="Address space of a decode child.")
    child_timeout_s: float = Field(default=3600.0, description="Longest run of a decode child.")
    min_free_bytes: int = Field(default=2 * 2**30, description="With less free disk, prepare waits and says so.")
    work_dir: Path | None = Field(default=None, description="Scratch folder for decoding; default: the system's.")

    # Model servers that speak OpenAI's API, for OMNI_BACKEND=remote; `omni-jobs backend test URL` says what to set.
    remote_urls: Annotated[tuple[str, ...], NoDecode] = Field(
        default=(),
        description="Their base URLs, comma-separated, each with its weight after a space where that is not 1: "
        "`http://gpu-1:8000/v1 3, http://gpu-2:8000/v1`.",
    )
    remote_model: str = Field(default="", description="Name of the model, the same on all of them.")
    remote_key: str = Field(default="", description="Key they want, sent as a bearer token; empty: none.", repr=False)
    remote_kinds: Annotated[tuple[Literal["span", "clip", "page", "reduce"], ...], NoDecode] = Field(
        default=("span", "clip", "page", "reduce"), description="Kinds of units they are asked, comma-separated."
    )
    remote_concurrency: int = Field(default=16, ge=1, le=1024, description="Requests under way at each of them.")
    remote_timeout_s: float = Field(default=600.0, gt=0, description="Longest wait for one answer.")
    remote_video: Literal["mp4", "frames"] = Field(
        default="mp4", description="How a clip is sent: as one `video_url`, or as a list of `image_url`."
    )
    remote_frames: int = Field(
        default=128, ge=2, le=1024, description="Most frames that one request shows; a longer clip takes several."
    )
    remote_max_tokens: int = Field(default=16_384, ge=256, description="Longest answer that is asked for, in tokens.")
    remote_reasoning: int = Field(
        default=0, ge=0, description="Tokens the model may think before it describes a clip or sums up; 0: none."
    )
    remote_language: str = Field(
        default="en", pattern=r"^([a-z]{2,3})?$", description="Language of speech for jobs that do not name one."
    )

    # Our own engine, for OMNI_BACKEND=local.
    model_frames: int = Field(
        default=128, ge=2, le=1024, description="Most frames that it is shown at once; a longer clip takes several."
    )
    model_max_tokens: int = Field(default=16_384, ge=16, description="Longest answer that it gives, in tokens.")
    model_reasoning: int = Field(
        default=0, ge=0, description="Tokens it may think before it describes a clip or sums up; 0: none."
    )
    model_media_bytes: int = Field(
        default=16 * 2**30, ge=1, description="With so much decoded for it on the host, other units wait to be decoded."
    )
    model_timeout_s: float = Field(default=600.0, gt=0, description="Longest wait for one answer of it.")
    model_language: str = Field(
        default="en", pattern=r"^([a-z]{2,3})?$", description="Language of speech for jobs that do not name one."
    )

    # What we say about ourselves.
    log_format: Literal["text", "json"] = Field(default="text", description="`text` for people, `json` for collectors.")
    log_level: str = Field(default="INFO", description="DEBUG, INFO, WARNING or ERROR.")

    @field_validator("s3_sources", "allowed_hosts", "remote_urls", "remote_kinds", mode="before")
    @classmethod
    def _commas(cls, value: object) -> object:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("file_roots", mode="before")
    @classmethod
    def _colons(cls, value: object) -> object:
        return tuple(Path(part) for part in value.split(":") if part) if isinstance(value, str) else value
