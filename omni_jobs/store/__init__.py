"""The only place with SQL. Functions take an `Engine`, make one transaction and commit it; nobody else commits.

Functions that take a `Connection` take part in the caller's transaction: they are for this package.
"""

from omni_jobs.store.database import open_database

__all__ = ["open_database"]
