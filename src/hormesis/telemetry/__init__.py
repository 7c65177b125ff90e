"""Seeing what policies do."""

from hormesis.telemetry.recorder import EVENTS_VARIABLE, record_events

__all__ = ["EVENTS_VARIABLE", "record_events"]
