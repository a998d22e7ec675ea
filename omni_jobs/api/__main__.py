"""`python -m omni_jobs.api`: one process that serves the API on `OMNI_API_HOST`:`OMNI_API_PORT`."""

import sys
from types import FrameType
from typing import cast

import uvicorn
from fastapi import FastAPI
from pydantic import ValidationError
from sqlalchemy.exc import SQLAlchemyError

from omni_jobs import access, telemetry
from omni_jobs.api.app import create_app
from omni_jobs.errors import OmniError
from omni_jobs.settings import Settings
from omni_jobs.store import open_database, schema

# Uploads and downloads that are under way when we are told to end get so long.
STOP_TIMEOUT_S = 3


class Server(uvicorn.Server):
    """Tells the app as soon as it is told to end, which `lifespan` does only once all requests are over."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        cast(FastAPI, self.config.app).state.stopping = True
        super().handle_exit(sig, frame)


def main() -> int:
    try:
        settings = Settings()  # pyright: ignore[reportCallIssue]
    except ValidationError as error:
        print(f"omni-jobs api: a setting cannot be used: {error}", file=sys.stderr)
        return 2
    telemetry.set_up(settings, process="api")
    try:
        access.require_key_off_loopback(settings)
        db = open_database(settings.database_url)
        schema.require(db)
        db.dispose()
        app = create_app(settings)
    except OmniError as error:
        print(f"omni-jobs api: {error}", file=sys.stderr)
        return 1
    except SQLAlchemyError as error:
        print(f"omni-jobs api: the database does not answer: {type(error).__name__}", file=sys.stderr)
        return 1
    config = uvicorn.Config(
        app,
        host=settings.api_host,
        port=settings.api_port,
        access_log=False,
        log_level="warning",
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=STOP_TIMEOUT_S,
    )
    listener = config.bind_socket()
    host, port = listener.getsockname()[:2]
    telemetry.get_logger().info("api.listening", host=host, port=port)
    Server(config).run(sockets=[listener])
    return 0


if __name__ == "__main__":
    sys.exit(main())
