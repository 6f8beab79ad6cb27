"""From settings to checked data: the training set, the labelled frames, the clips to score."""

from __future__ import annotations

import logging
from pathlib import Path

from etc.config.schema import Settings, Train
from etc.data.breaks import runs_in_folders
from etc.data.frame_names import neighbour
from etc.data.layouts import layout_named
from etc.data.lists import Frame, check_files, existing_neighbours, read_frames
from etc.data.synthetic import prepare
from etc.errors import UserError

logger = logging.getLogger(__name__)


def training_pairs(settings: Settings) -> list[tuple[Path, Path]]:
    """Every pair of frames t, k whose flow t -> k training may ask for, all files checked.

    Raises:
        UserError: missing lists, frames, labels or neighbours.
    """
    prepare(settings)
    frames = read_frames(settings.DATA.train_list)
    check_files(frames, settings.DATA.data_root, source=settings.DATA.train_list)
    return flow_pairs(settings, frames, neighbour_offsets(settings, frames))


def neighbour_offsets(settings: Settings, frames: list[Frame]) -> list[list[int]]:
    """The neighbours that training may draw for each frame."""
    found = _existing(settings, frames, _wanted(settings.TRAIN))
    singles = sum(not offsets for offsets in found)
    if singles and settings.frames_per_clip > 1:
        logger.warning("%d of %d frames have no neighbour: no motion loss for them", singles, len(frames))
    return found


def third_offsets(settings: Settings, frames: list[Frame]) -> list[list[int]]:
    """Where a third frame may lie for each frame: opposite to its neighbour."""
    found = _existing(settings, frames, [-offset for offset in _wanted(settings.TRAIN)])
    lacking = sum(not offsets for offsets in found)
    if lacking:
        logger.warning("%d of %d frames have no third frame: no multi-frame loss for them", lacking, len(frames))
    return found


def _wanted(train: Train) -> list[int]:
    gap = train.frame_gap
    return [offset for offset in range(-gap, gap + 1) if offset] if train.random_frame else [gap]


def _existing(settings: Settings, frames: list[Frame], wanted: list[int]) -> list[list[int]]:
    """Those of the wanted neighbours that are on disk; all must be, unless ``DATA.allow_missing_neighbours`` is set."""
    data = settings.DATA
    layout = layout_named(data.layout)
    runs = None
    if layout.frame_name is None and settings.frames_per_clip > 1:
        # Names with frame numbers skip what is missing by themselves.
        runs = runs_in_folders({(Path(data.data_root) / frame.image).parent for frame in frames}, settings)
    found = existing_neighbours(frames, data.data_root, wanted, layout=layout, frame_step=data.frame_step, runs=runs)
    lacking = [frame.image for frame, offsets in zip(frames, found, strict=True) if len(offsets) < len(wanted)]
    if lacking and settings.frames_per_clip > 1 and not data.allow_missing_neighbours:
        raise UserError(
            f"{data.train_list}: {len(lacking)} of {len(frames)} frames lack a neighbour within "
            f"{settings.TRAIN.frame_gap} frames on disk, the first is {lacking[0]} "
            "(DATA.allow_missing_neighbours true trains such frames with what there is)"
        )
    return found


def listed_pairs(settings: Settings, frames: list[Frame], offsets: list[list[int]]) -> list[tuple[Path, Path]]:
    """Every frame with each of its neighbours.

    Args:
        settings: section ``DATA``.
        frames: frames of a list.
        offsets: the existing neighbours of each, as :func:`neighbour_offsets` gives them.
    """
    data, pairs = settings.DATA, []
    layout = layout_named(data.layout)
    for frame, own in zip(frames, offsets, strict=True):
        path = Path(data.data_root) / frame.image
        for offset in own:
            other = neighbour(path, offset, layout=layout, frame_step=data.frame_step)
            if other is not None:
                pairs.append((path, other))
    return pairs


def flow_pairs(settings: Settings, frames: list[Frame], offsets: list[list[int]]) -> list[tuple[Path, Path]]:
    """:func:`listed_pairs`, and their way back where training checks which pixels are visible; each once."""
    pairs = listed_pairs(settings, frames, offsets)
    if settings.needs_visible_pixels:
        pairs += [(k, t) for t, k in pairs]
    return list(dict.fromkeys(pairs))
