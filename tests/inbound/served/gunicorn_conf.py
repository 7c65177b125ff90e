"""What a gunicorn with `--preload` and threads needs, so that its workers leave as they are told."""

from hormesis.inbound.gunicorn import post_worker_init

__all__ = ["post_worker_init"]
