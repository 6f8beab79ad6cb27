"""The training set of the settings, every file that training may ask for checked before it starts."""

from __future__ import annotations

import logging
from pathlib import Path

from etc.config.schema import Settings
from etc.data.clip_dataset import ClipDataset
from etc.data.labels import label_table
from etc.data.layouts import layout_named
from etc.data.lists import Frame, check_files, read_frames
from etc.data.synthetic import prepare
from etc.data.training_list import listed_pairs, neighbour_offsets, third_offsets
from etc.data.transform import ClipTransform
from etc.errors import UserError
from etc.flow.build import flow_source
from etc.flow.files import data_set_flow
from etc.train.teacher_cache import TeacherLogits

logger = logging.getLogger(__name__)


def training_set(settings: Settings) -> ClipDataset:
    """The training data, every file that training may ask for checked.

    Raises:
        UserError: missing lists, frames, labels or neighbours; the data set's own flow with ``FLOW.source online``.
    """
    data, train, flow = settings.DATA, settings.TRAIN, settings.FLOW
    with_flow = train.st_weight > 0
    if with_flow and flow.name == "dataset" and flow.source == "online":
        raise UserError("FLOW.name dataset is read from files of whole frames: it needs FLOW.source cached")
    prepare(settings)
    frames = read_frames(data.train_list)
    check_files(frames, data.data_root, source=data.train_list)
    _check_labels(settings, frames)
    offsets = neighbour_offsets(settings, frames)
    if with_flow and flow.name == "dataset":
        _check_stored_flow(settings, frames, offsets)
    return ClipDataset(
        frames,
        # The baseline draws from the same neighbours, so that all its other random numbers are the same.
        offsets,
        data_root=data.data_root,
        layout=layout_named(data.layout),
        frame_step=data.frame_step,
        transform=ClipTransform(
            size=(train.train_h, train.train_w),
            scale=(train.scale_min, train.scale_max),
            rotate=(train.rotate_min, train.rotate_max),
            blur=train.blur,
        ),
        label_table=label_table(data.label_map, data.classes, train.ignore_label),
        flow=flow_source(settings) if with_flow and flow.source == "cached" else None,
        with_neighbour=settings.frames_per_clip > 1,
        opposite=third_offsets(settings, frames) if settings.frames_per_clip > 2 else None,
        soft=_teacher_logits(settings),
        seed=train.manual_seed,
    )


def _teacher_logits(settings: Settings) -> TeacherLogits | None:
    distill = settings.DISTILL
    if not distill.used or distill.source == "online":
        return None
    if distill.teacher_weight is None or not Path(distill.teacher_weight).is_file():
        return None  # etc.networks.teacher_network says what is missing
    return TeacherLogits(distill.teacher_arch, distill.teacher_weight, distill.cache)


def _check_labels(settings: Settings, frames: list[Frame]) -> None:
    """Frames without label need something else to learn from than the motion loss."""
    bare = sum(frame.label is None for frame in frames)
    if not bare or settings.TRAIN.self_training is not None or settings.DISTILL.kd_weight > 0:
        return
    what = f"{settings.DATA.train_list}: {bare} of {len(frames)} frames have no label"
    if bare == len(frames):
        # A constant prediction is perfectly consistent: nothing would stop the network from becoming one.
        raise UserError(f"{what}: set TRAIN.self_training (0.9, say), distil with DISTILL.kd_weight, or list labels")
    logger.warning("%s: no segmentation loss for them (TRAIN.self_training would label them)", what)


def _check_stored_flow(settings: Settings, frames: list[Frame], offsets: list[list[int]]) -> None:
    """Every pair that training may draw must have its flow file."""
    pairs = listed_pairs(settings, frames, offsets)
    missing = [pair for pair in pairs if data_set_flow(*pair) is None]
    if missing:
        raise UserError(
            f"FLOW.name dataset: {len(missing)} of {len(pairs)} frame pairs have no flow file, the first "
            f"is {missing[0][0]} to {missing[0][1].name}"
        )
