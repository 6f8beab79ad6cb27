"""Errors that the user can correct: scripts show them as one line, with exit code 2."""

from __future__ import annotations


class UserError(ValueError):
    """An error in the user's input (a file, a shape, a key); the message says what was found and what was expected."""


class ConfigError(UserError):
    """A setting that cannot be used; the message names its key."""
