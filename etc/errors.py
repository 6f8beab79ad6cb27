"""What a user can mend: errors that scripts show as one line, with exit code 2."""

from __future__ import annotations


class UserError(ValueError):
    """Something that only the user can mend: a file, a shape, a key; the message says what was expected."""


class ConfigError(UserError):
    """A setting that cannot be used; the message names the key."""
