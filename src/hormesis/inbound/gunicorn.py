"""Hooks for a gunicorn configuration.

    from hormesis.inbound.gunicorn import post_worker_init      # in gunicorn.conf.py

A gunicorn that loads its application before it forks (`--preload`) installs its handlers of signals after that, and
workers of threads never run the application in their main thread, which is the only one where handlers can be put in
their place. This is the moment at which they can.
"""

from __future__ import annotations

from hormesis.inbound.service import services

__all__ = ["post_worker_init"]


def post_worker_init(worker: object) -> None:  # noqa: ARG001  gunicorn names it so
    """Let this worker leave by the `Drain` of its services."""
    for service in services():
        service.watch_signals()
