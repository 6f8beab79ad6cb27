"""Where clips break: at gaps in the numbers of their frames, and at cuts. Pairs of frames across a break mean nothing.

The clips of lists and folders stay whole for everything that looks at single frames; whatever looks at pairs splits
them here first.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch
from tqdm import tqdm

from etc import distributed
from etc.config.schema import Settings
from etc.data.cuts import METHOD, starts_after_cuts
from etc.data.frame_names import frames_in, starts_after_gaps, starts_of_sequences
from etc.data.lists import Clip, Frame
from etc.data.origin import Origin
from etc.errors import UserError
from utils.files import write_text

logger = logging.getLogger(__name__)

Item = TypeVar("Item")


class Breaks(NamedTuple):
    """Where clips break.

    Attributes:
        gaps: for each clip the indices of the frames that begin after a gap in the numbers.
        cuts: for each clip the indices of the frames that begin after a cut.
    """

    gaps: list[list[int]]
    cuts: list[list[int]]

    def split(self, clips: Sequence[Sequence[Item]]) -> list[list[Item]]:
        """The parts of all clips, in order; ``clips`` may hold anything that there is one of per frame."""
        parts: list[list[Item]] = []
        for clip, starts in zip(clips, self._starts(), strict=True):
            parts += [list(clip[a:b]) for a, b in pairwise([0, *starts, len(clip)])]
        return parts

    def parts_after(self, where: list[list[int]]) -> list[int]:
        """Indices, among the parts, of those that begin at ``gaps`` or at ``cuts``."""
        origins = [(i, start) for i, starts in enumerate(self._starts()) for start in (0, *starts)]
        return [part for part, (i, start) in enumerate(origins) if start in where[i]]

    def _starts(self) -> list[list[int]]:
        return [sorted({*gaps, *cuts}) for gaps, cuts in zip(self.gaps, self.cuts, strict=True)]


def breaks_in(clips: list[Clip], settings: Settings) -> Breaks:
    """Find the breaks of clips, as ``DATA.gaps`` and ``DATA.cuts`` say, and say in the log how many there are.

    Processes started by torchrun share the clips. Verdicts about cuts are kept in ``FLOW.cache``.

    Args:
        clips: frames, relative to ``DATA.data_root``.
        settings: sections ``DATA`` and ``FLOW``.

    Raises:
        UserError: a frame that cannot be read.
    """
    names = [[frame.image for frame in clip] for clip in clips]
    gaps = [starts_after_gaps(images) if settings.DATA.gaps == "split" else [] for images in names]
    cuts = _cuts(clips, settings) if settings.DATA.cuts == "split" else [[] for _ in clips]
    breaks = Breaks(gaps, cuts)
    for what, starts in (("gaps in the frame numbers (DATA.gaps)", gaps), ("cuts (DATA.cuts)", cuts)):
        first = next((names[i][own[0]] for i, own in enumerate(starts) if own), None)
        if first is not None and distributed.rank() == 0:
            count = sum(map(len, starts))
            logger.warning("%s: %d, each begins a new clip; the first is before %s", what, count, first)
    return breaks


def runs_in_folders(folders: Iterable[Path], settings: Settings) -> dict[Path, int]:
    """The run of frames without break that each image of some folders belongs to; equal numbers mean the same run.

    Several sequences in one folder are runs of their own (:func:`etc.data.frame_names.starts_of_sequences`).

    Raises:
        UserError: as :func:`breaks_in`.
    """
    images = []
    for folder in sorted(set(folders)):
        own = frames_in(folder)
        starts = [0, *starts_of_sequences([path.name for path in own]), len(own)]
        images += [own[a:b] for a, b in pairwise(starts)]
    clips = [[Frame(os.path.abspath(path)) for path in own] for own in images]
    runs = breaks_in(clips, settings).split(images)
    return {path: number for number, run in enumerate(runs) for path in run}


def _cuts(clips: list[Clip], settings: Settings) -> list[list[int]]:
    """The cuts of all clips; each process looks at its share."""
    root, folder = Path(settings.DATA.data_root), Path(settings.FLOW.cache) / "cuts"
    if not clips:
        return []
    flags = [torch.zeros(len(clip), dtype=torch.int64) for clip in clips]
    own = range(distributed.rank(), len(clips), distributed.world_size())
    for index in tqdm(own, desc="cuts", unit="clip", leave=False, disable=distributed.rank() > 0):
        flags[index][_kept_cuts([root / frame.image for frame in clips[index]], folder)] = 1
    summed = distributed.sum_counts(torch.cat(flags)).split([len(clip) for clip in clips])
    return [own.nonzero().flatten().tolist() for own in summed]


def _kept_cuts(paths: list[Path], folder: Path) -> list[int]:
    """The cuts of one clip: looked for once, as long as its frames stay the same."""
    name = hashlib.sha256("\n".join(os.path.realpath(path) for path in paths).encode()).hexdigest()[:16]
    file = folder / f"{name}.json"
    known = _read_cuts(file, paths)
    if known is not None:
        return known
    try:
        origin = Origin.of(paths, METHOD)
    except OSError as error:
        raise UserError(f"cannot read {error.filename}: {error.strerror}") from error
    cuts = starts_after_cuts(paths)
    write_text(file, json.dumps({"cuts": cuts, "origin": json.loads(origin.text)}, indent=1) + "\n")
    return cuts


def _read_cuts(file: Path, paths: list[Path]) -> list[int] | None:
    """The cuts that a file keeps; ``None`` where it is missing, damaged or of other frames."""
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        origin, cuts = Origin.of_text(json.dumps(record["origin"])), record["cuts"]
        fits = origin is not None and origin.is_of(paths, METHOD) and all(0 < cut < len(paths) for cut in cuts)
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return cuts if fits else None
