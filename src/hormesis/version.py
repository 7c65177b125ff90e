"""The version, in a room of its own so that every floor may tell it."""

__all__ = ["__version__"]

__version__ = "0.1.0.dev0"
