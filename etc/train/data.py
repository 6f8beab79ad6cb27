"""The training set of the settings; every file that training may read is checked before training starts."""

from __future__ import annotations

import logging

from etc import distributed
from etc.config import find_file
from etc.config.schema import Settings
from etc.data.clip_dataset import ClipDataset
from etc.data.frame_values import check_values
from etc.data.labels import label_table_of
from etc.data.layouts import layout_named
from etc.data.lists import Frame, check_files, read_frames
from etc.data.synthetic import prepare
from etc.data.training_list import listed_pairs, neighbour_offsets, third_offsets
from etc.data.transform import ClipTransform
from etc.errors import UserError
from etc.flow.build import flow_source
from etc.flow.files import data_set_flow
from etc.flow.plausible import warn_if_implausible
from etc.flow.visible import VisibleFlow
from etc.train.teacher_cache import TeacherLogits

logger = logging.getLogger(__name__)


def training_set(settings: Settings, teacher_logits: TeacherLogits | None = None) -> ClipDataset:
    """The training data; every file that training may read is checked.

    Args:
        settings: all sections.
        teacher_logits: where training reads a teacher's logits; ``None``: the teacher runs in every step, or there is
            none.

    Raises:
        UserError: missing lists, frames, labels, neighbours or flow files; no frame has a label and there is nothing
            else to learn from; the data set's own flow with ``FLOW.source online``.
    """
    data, train, flow = settings.DATA, settings.TRAIN, settings.FLOW
    with_flow = settings.needs_flow
    if with_flow and flow.name == "dataset" and flow.source == "online":
        raise UserError(
            "FLOW.source online estimates flow from crops, FLOW.name dataset reads files of whole frames: "
            "set FLOW.source cached, or name an estimator"
        )
    prepare(settings)
    frames = read_frames(data.train_list)
    check_files(frames, data.data_root, source=data.train_list)
    _check_labels(settings, frames)
    check_values(settings, frames, data.train_list)
    offsets = neighbour_offsets(settings, frames)
    if with_flow and flow.name == "dataset":
        _check_flow_files(settings, frames, offsets)
    source = flow_source(settings) if with_flow and flow.source == "cached" else None
    if with_flow and distributed.rank() == 0:
        pairs = listed_pairs(settings, frames, offsets)
        warn_if_implausible(settings, flow.name, source or flow_source(settings), pairs)
    return ClipDataset(
        frames,
        # The baseline gets the same offsets, so that all its other random numbers are the same.
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
        label_table=label_table_of(settings),
        flow=source,
        visible_flow=VisibleFlow(source) if source is not None and settings.needs_visible_pixels else None,
        with_neighbour=settings.frames_per_clip > 1,
        opposite=third_offsets(settings, frames) if settings.frames_per_clip > 2 else None,
        teacher_logits=teacher_logits,
        jitter=train.jitter,
        jitter_clip=train.jitter_frames == "clip",
        noise=train.noise,
        seed=train.manual_seed,
    )


def cached_teacher_logits(settings: Settings) -> TeacherLogits | None:
    """The cache of the teacher's logits, where ``DISTILL.source cached`` asks for it; it may still be empty."""
    distill = settings.DISTILL
    if not distill.used or distill.source == "online":
        return None
    weights = [find_file(path) for path in distill.teacher_weights]
    if not weights or not all(path.is_file() for path in weights):
        return None  # etc.networks.teacher_network raises the error that names the setting
    return TeacherLogits(distill.teacher_arch, weights, distill.cache)


def _check_labels(settings: Settings, frames: list[Frame]) -> None:
    """Frames without label need something to learn from besides the motion loss.

    Raises:
        UserError: no frame has a label, and there is neither self-training nor pixel-wise distillation.
    """
    unlabelled = sum(frame.label is None for frame in frames)
    if not unlabelled or settings.TRAIN.self_training is not None or settings.DISTILL.kd_weight > 0:
        return
    what = f"{settings.DATA.train_list}: {unlabelled} of {len(frames)} frames have no label"
    if unlabelled == len(frames):
        # A constant prediction is perfectly consistent: the motion loss alone would lead the network to one.
        raise UserError(f"{what}: set TRAIN.self_training (0.9, say), distil with DISTILL.kd_weight, or list labels")
    logger.warning("%s: no segmentation loss for them (TRAIN.self_training would pseudo-label them)", what)


def _check_flow_files(settings: Settings, frames: list[Frame], offsets: list[list[int]]) -> None:
    """Every pair that training may draw must have its flow file.

    Raises:
        UserError: how many are missing, and the first of them.
    """
    pairs = listed_pairs(settings, frames, offsets)
    missing = [pair for pair in pairs if data_set_flow(*pair) is None]
    if missing:
        raise UserError(
            f"FLOW.name dataset: {len(missing)} of {len(pairs)} frame pairs have no flow file, the first "
            f"is {missing[0][0]} to {missing[0][1].name}"
        )
