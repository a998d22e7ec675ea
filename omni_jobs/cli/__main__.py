"""`python -m omni_jobs.cli`."""

from omni_jobs.cli import main

main()
