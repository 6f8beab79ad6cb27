"""From settings to checked data: the training set, the labelled frames, the clips to score."""

from __future__ import annotations

import logging
from pathlib import Path

from etc.config import UserError
from etc.config_schema import Settings
from etc.data.clips import ClipDataset
from etc.data.labels import label_table
from etc.data.lists import Clip, Frame, check_files, existing_neighbours, read_clips, read_frames
from etc.data.transform import ClipTransform
from etc.data.world import write_world
from etc.flow import FlowOfPairs, build_flow

logger = logging.getLogger(__name__)


def prepare(settings: Settings) -> None:
    """Render the synthetic world where the settings ask for it and it is not there yet."""
    data = settings.DATA
    if not data.synthetic or Path(data.data_root).exists():
        return
    logger.info("rendering the synthetic world into %s (once)", data.data_root)
    write_world(
        Path(data.data_root),
        height=data.synthetic_height,
        width=data.synthetic_width,
        train_snippets=data.synthetic_train,
        val_snippets=data.synthetic_val,
        seed=data.synthetic_seed,
        workers=2,
    )


def flow_of_pairs(settings: Settings, device: str = "cpu") -> FlowOfPairs:
    """Flow between listed frames, with the estimator and the store of the settings.

    Raises:
        UserError: as :func:`etc.flow.build_flow`.
    """
    flow = settings.FLOW
    estimator = build_flow(
        flow.name,
        weights=flow.weights,
        preset=flow.preset,
        device=device,
        normalized=flow.input == "normalized",
    )
    return FlowOfPairs(estimator, flow.store)


def training_set(settings: Settings) -> ClipDataset:
    """The training data, every file that training may ask for checked.

    Raises:
        UserError: missing lists, frames, labels or neighbours; ``stored`` flow with source ``online``.
    """
    data, train, flow = settings.DATA, settings.TRAIN, settings.FLOW
    with_neighbour = train.st_weight > 0
    if with_neighbour and flow.name == "stored" and flow.source == "online":
        raise UserError("FLOW.name stored is read from files: it needs FLOW.source stored")
    prepare(settings)
    frames = read_frames(data.train_list)
    check_files(frames, data.data_root, source=data.train_list)
    return ClipDataset(
        frames,
        # The baseline draws from the same neighbours, so that all its other random numbers are the same.
        _offsets(settings, frames),
        data_root=data.data_root,
        layout=data.layout,
        frame_step=data.frame_step,
        transform=ClipTransform(
            size=(train.train_h, train.train_w),
            scale=(train.scale_min, train.scale_max),
            rotate=(train.rotate_min, train.rotate_max),
            blur=train.blur,
        ),
        label_table=label_table(data.label_map, data.classes, train.ignore_label),
        flow=flow_of_pairs(settings) if with_neighbour and flow.source == "stored" else None,
        with_neighbour=with_neighbour,
        seed=train.manual_seed,
    )


def labelled_frames(settings: Settings, path: str | None = None) -> list[Frame]:
    """The frames of a list (default ``DATA.val_list``), each with a label, all files checked.

    Raises:
        UserError: a missing list or file, or a frame without label.
    """
    prepare(settings)
    path = path or settings.DATA.val_list
    frames = read_frames(path)
    bare = [frame.image for frame in frames if frame.label is None]
    if bare:
        raise UserError(f"{path}: {len(bare)} of {len(frames)} frames have no label, the first is {bare[0]}")
    check_files(frames, settings.DATA.data_root, source=path)
    return frames


def clips_to_score(settings: Settings) -> list[Clip]:
    """The clips of ``DATA.clip_list``, all files checked.

    Raises:
        UserError: a missing list or file, or a clip of one frame.
    """
    prepare(settings)
    data = settings.DATA
    clips = read_clips(data.clip_list, layout=data.layout, frame_step=data.frame_step)
    check_files((frame for clip in clips for frame in clip), data.data_root, source=data.clip_list)
    return clips


def _offsets(settings: Settings, frames: list[Frame]) -> list[list[int]]:
    """The neighbours that training may draw for each frame."""
    data, train = settings.DATA, settings.TRAIN
    gap = train.frame_gap
    wanted = [o for o in range(-gap, gap + 1) if o] if train.random_frame else [gap]
    found = existing_neighbours(frames, data.data_root, wanted, layout=data.layout, frame_step=data.frame_step)
    lacking = [frame.image for frame, offsets in zip(frames, found, strict=True) if len(offsets) < len(wanted)]
    if lacking and train.st_weight > 0 and not data.allow_single:
        raise UserError(
            f"{data.train_list}: {len(lacking)} of {len(frames)} frames lack a neighbour within {gap} frames on "
            f"disk, the first is {lacking[0]} (DATA.allow_single true trains such frames with what there is)"
        )
    singles = sum(not offsets for offsets in found)
    if singles and train.st_weight > 0:
        logger.warning("%d of %d frames have no neighbour: no motion loss for them", singles, len(frames))
    return found
