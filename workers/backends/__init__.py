"""Who answers units: one protocol (`backend`), and the backends behind it."""

from importlib import import_module
from typing import Any

from omni_jobs.errors import UsageError
from omni_jobs.settings import Settings
from workers.backends.backend import Backend, Identity
from workers.flight import Flight


def open_backend(settings: Settings, flight: Flight) -> Backend:
    """The backend of the settings, ready to answer; its models load when they are first needed."""
    match settings.backend:
        case "embedded":
            from workers.backends.embedded import Embedded

            return Embedded(settings)
        case "remote":
            from workers.backends.remote import Remote

            return Remote(settings)
        case "local":
            from workers.backends.local import Local

            return Local(settings, flight)
        case own:
            return _own(own)(settings, flight)


def identity_of(settings: Settings) -> Identity:
    """Who would answer, without loading anything."""
    match settings.backend:
        case "embedded":
            from workers.backends.embedded import identity

            return identity(settings)
        case "remote":
            from workers.backends.remote import identity

            return identity(settings)
        case "local":
            from workers.backends.local import identity

            return identity(settings)
        case own:
            return _own(own).identity_of(settings)


def missing_of(settings: Settings) -> tuple[str, ...]:
    """In plain sentences what the backend would not do, without loading anything; nothing is known of a user's own."""
    match settings.backend:
        case "embedded":
            from workers.backends.embedded import missing

            return missing()
        case "remote":
            from workers.backends.remote import missing

            return missing(settings)
        case "local":
            from workers.backends.local import missing

            return missing()
        case _:
            return ()


def _own(name: str) -> Any:
    """A user's own: a class called with settings and flight record, with a static `identity_of(settings)`."""
    module, _, attribute = name.partition(":")
    try:
        return getattr(import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"expected OMNI_BACKEND as package.module:Class, got {name!r}: {error}") from error
