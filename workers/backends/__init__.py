"""Who answers units: one protocol (`backend`), and the backends behind it."""

from omni_jobs.settings import Settings
from workers.backends.backend import Backend, Identity


def open_backend(settings: Settings) -> Backend:
    """The backend of the settings, ready to answer; its models load when they are first needed."""
    from workers.backends.embedded import Embedded

    return Embedded(settings)


def identity_of(settings: Settings) -> Identity:
    """Who would answer, without loading anything."""
    from workers.backends.embedded import identity

    return identity(settings)
