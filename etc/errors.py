"""Errors that the user can correct: scripts show them as one line, with exit code 2."""

from __future__ import annotations


class UserError(ValueError):
    """An error in the user's input (a file, a shape, a key); the message says what was found and what was expected."""


class ConfigError(UserError):
    """A setting that cannot be used; the message names its key."""


def is_lack_of_memory(error: BaseException) -> bool:
    """Whether memory ended: torch has a type for what it allocates on GPUs; CPUs and CUDA's libraries use words."""
    said = ("not enough memory", "can't allocate memory", "out of memory", "_STATUS_ALLOC_FAILED")
    # By its name, as not everything that runs imports torch.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or any(sentence in str(error) for sentence in said)
    )
