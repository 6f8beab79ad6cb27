"""What a computed file was made from, kept inside the file: the frames that were read, and what they were read with.

Predictions, flow, teacher logits and pseudo labels lie under the names of their frames. Names and times do not say
whether a file belongs to these frames: videos share names, and copying restores times. So every such file records its
origin, and is used only for that.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from etc.data.images import read_png_origin
from etc.errors import UserError
from utils.identity import FileIdentity, identity_of, is_unchanged


class Origin(NamedTuple):
    """Origin of a computed file.

    Attributes:
        files: what it was computed from, in order.
        made_with: what it was computed with: equal text means equal results for equal files.
    """

    files: tuple[FileIdentity, ...]
    made_with: str

    @classmethod
    def of(cls, files: Sequence[Path], made_with: str) -> Origin:
        """The origin of what is about to be computed. To be called before the files are read.

        Raises:
            OSError: a file cannot be read.
        """
        return cls(tuple(identity_of(file) for file in files), made_with)

    @classmethod
    def of_text(cls, text: str | None) -> Origin | None:
        """The inverse of :attr:`text`; ``None`` for anything else."""
        try:
            record = json.loads(text or "")
            return cls(tuple(FileIdentity.of_record(file) for file in record["files"]), str(record["made_with"]))
        except (ValueError, KeyError, TypeError):
            return None

    @property
    def text(self) -> str:
        """ASCII, for the file that is computed."""
        return json.dumps({"files": [file._asdict() for file in self.files], "made_with": self.made_with})

    def is_of(self, files: Sequence[Path], made_with: str) -> bool:
        """Whether these files, as they are now, and ``made_with`` would give the same."""
        return made_with == self.made_with and self.is_of_files(files)

    def is_of_files(self, files: Sequence[Path]) -> bool:
        """Whether it was computed from these files as they are now; copies of them count."""
        if len(files) != len(self.files):
            return False
        try:
            return all(is_unchanged(file, kept) for file, kept in zip(files, self.files, strict=True))
        except OSError:
            return False


def read_origin(path: Path) -> Origin | None:
    """The origin that a PNG records; ``None`` where the file is missing or was not written by this toolkit."""
    return Origin.of_text(read_png_origin(path))


def check_frame(file: Path, origin: Origin, frame: Path) -> None:
    """Raise UserError where a file was computed from a frame in another place, and with another content, than its own.

    A frame that was replaced in its place passes: what was computed from it is only out of date.
    """
    made_from = origin.files[0].path if origin.files else "no frame"
    if made_from != os.path.realpath(frame) and not origin.is_of_files([frame]):
        raise UserError(
            f"{file} was made from {made_from}, not from {frame}: give another output folder, or --overwrite to "
            "replace it"
        )


def digest(facts: dict[str, Any]) -> str:
    """A short text that is equal for equal facts, for :attr:`Origin.made_with`."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
