"""Logs: events with fields, for people or for collectors, with the ids of job and unit bound to them."""

import logging
import sys
from typing import Any

import structlog

from omni_jobs.settings import Settings


def set_up(settings: Settings, **bound: Any) -> None:
    """Configure logging of this process once, to stderr; `bound` fields appear in each line."""
    level = logging.getLevelName(settings.log_level.upper())
    level = level if isinstance(level, int) else logging.INFO
    render: Any = (
        structlog.processors.JSONRenderer(ensure_ascii=False)
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    logging.basicConfig(
        level=max(level, logging.WARNING), stream=sys.stderr, format="%(levelname)s %(name)s %(message)s"
    )
    structlog.contextvars.bind_contextvars(**bound)


def get_logger() -> Any:
    return structlog.get_logger()
