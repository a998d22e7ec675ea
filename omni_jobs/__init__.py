"""omni-jobs: what a job is, how it is taken in, and how it is shown. The work itself is in `workers`."""

__version__ = "0.1.0"
