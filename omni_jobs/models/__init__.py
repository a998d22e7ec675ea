"""Weights on this machine: where they lie, where they came from, and whether all of them are here.

`store` keeps what `hub` and `fetch` bring; `resolve_model` is what a backend asks. Nothing here reads a tensor: what
weights are is said by the workers, in a process of their own (`facts`).
"""

from omni_jobs.models.store import resolve_model

__all__ = ["resolve_model"]
