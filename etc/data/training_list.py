"""From settings to checked data: the training set, the labelled frames, the clips to score."""

from __future__ import annotations

import json
import logging
import os
import shutil
from pathlib import Path

import torch
from tqdm import tqdm

from etc import distributed
from etc.config import UserError
from etc.config.schema import Settings, Train
from etc.data.clip_dataset import ClipDataset
from etc.data.frame_names import neighbour
from etc.data.labels import label_table
from etc.data.lists import Clip, Frame, check_files, existing_neighbours, read_clips, read_frames
from etc.data.make_lists import cityscapes_lists, write_lists
from etc.data.sources import cityscapes_clips, clips_of_frames
from etc.data.transform import ClipTransform
from etc.data.world import write_world
from etc.flow.cache import FlowOfPairs
from etc.flow.estimators import FlowEstimator, build_flow
from etc.flow.files import data_set_flow
from etc.train.teacher_cache import TeacherLogits
from utils.files import write_text

logger = logging.getLogger(__name__)

WORLD_FILE = "world.json"
SYNTHETIC_LABELLED = (4, 9, 14, 19, 24)  # frames of a snippet that train and val lists name
SYNTHETIC_GAP = 2  # training flow is rendered to this many frames before and after


def prepare(settings: Settings) -> None:
    """Render the synthetic world, with its list files, where the settings ask for it and it is not there yet.

    Raises:
        UserError: ``DATA.data_root`` holds something else, or a world of other settings.
    """
    data = settings.DATA
    if not data.synthetic:
        return
    root = Path(data.data_root)
    wanted = {key: value for key, value in data.model_dump().items() if key.startswith("synthetic_")}
    if distributed.rank() == 0 and not root.exists():
        _render(root, settings, wanted)
    distributed.barrier()
    _check_world(root, wanted)


def _render(root: Path, settings: Settings, wanted: dict[str, int]) -> None:
    data = settings.DATA
    logger.info("rendering the synthetic world into %s (once)", root)
    # The world appears under its name when all of it is there: a killed rendering leaves no half of it.
    building = root.with_name(f"{root.name}.building")
    shutil.rmtree(building, ignore_errors=True)
    count = data.synthetic_train + data.synthetic_val
    with tqdm(total=count, desc="render", unit="snippet") as bar:
        write_world(
            building,
            height=data.synthetic_height,
            width=data.synthetic_width,
            train_snippets=data.synthetic_train,
            val_snippets=data.synthetic_val,
            seed=data.synthetic_seed,
            frame_gap=SYNTHETIC_GAP,
            labelled=SYNTHETIC_LABELLED,
            workers=min(count, os.cpu_count() or 1),
            progress=lambda done, total: bar.update(),
        )
    write_lists(cityscapes_lists(building, clips="sequences", labelled=SYNTHETIC_LABELLED), building / "list")
    write_text(building / WORLD_FILE, json.dumps(wanted))
    building.rename(root)


def _check_world(root: Path, wanted: dict[str, int]) -> None:
    try:
        found = json.loads((root / WORLD_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"DATA.data_root {root} holds something else than a synthetic world: choose another") from None
    for key, value in wanted.items():
        if found.get(key) != value:
            raise UserError(
                f"DATA.data_root {root} was rendered with {key} {found.get(key)}, now DATA.{key} is {value}: "
                "choose another folder, or delete that one"
            )


def flow_estimator(settings: Settings, device: str | torch.device = "cpu") -> FlowEstimator:
    """The flow estimator of the settings.

    Raises:
        UserError: as :func:`etc.flow.estimators.build_flow`.
    """
    flow = settings.FLOW
    return build_flow(
        flow.name,
        weights=flow.weights,
        preset=flow.preset,
        device=device,
        normalized=flow.input == "normalized",
        scale=flow.scale,
    )


def flow_of_pairs(settings: Settings, device: str | torch.device = "cpu") -> FlowOfPairs:
    """Flow between listed frames, with the estimator and the store of the settings.

    Raises:
        UserError: as :func:`etc.flow.estimators.build_flow`.
    """
    return FlowOfPairs(flow_estimator(settings, device), settings.FLOW.store)


def training_set(settings: Settings) -> ClipDataset:
    """The training data, every file that training may ask for checked.

    Raises:
        UserError: missing lists, frames, labels or neighbours; ``stored`` flow with source ``online``.
    """
    data, train, flow = settings.DATA, settings.TRAIN, settings.FLOW
    with_flow = train.st_weight > 0
    if with_flow and flow.name == "stored" and flow.source == "online":
        raise UserError("FLOW.name stored is read from files: it needs FLOW.source stored")
    prepare(settings)
    frames = read_frames(data.train_list)
    check_files(frames, data.data_root, source=data.train_list)
    _check_labels(settings, frames)
    offsets = _offsets(settings, frames)
    if with_flow and flow.name == "stored":
        _check_stored_flow(settings, frames, offsets)
    return ClipDataset(
        frames,
        # The baseline draws from the same neighbours, so that all its other random numbers are the same.
        offsets,
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
        flow=flow_of_pairs(settings) if with_flow and flow.source == "stored" else None,
        with_neighbour=settings.frames_per_clip > 1,
        opposite=_opposite(settings, frames) if settings.frames_per_clip > 2 else None,
        soft=_teacher_logits(settings),
        seed=train.manual_seed,
    )


def _teacher_logits(settings: Settings) -> TeacherLogits | None:
    distill = settings.DISTILL
    if not distill.used or distill.source == "online":
        return None
    if distill.teacher_weight is None or not Path(distill.teacher_weight).is_file():
        return None  # etc.networks.teacher_network says what is missing
    return TeacherLogits(distill.teacher_arch, distill.teacher_weight, distill.store)


def training_pairs(settings: Settings) -> list[tuple[Path, Path]]:
    """Every pair of frames t, k whose flow t -> k training may ask for, all files checked.

    Raises:
        UserError: missing lists, frames, labels or neighbours.
    """
    prepare(settings)
    frames = read_frames(settings.DATA.train_list)
    check_files(frames, settings.DATA.data_root, source=settings.DATA.train_list)
    return _pairs(settings, frames, _offsets(settings, frames))


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
    """The clips of ``TEST.frames``, ``TEST.cityscapes`` or else ``DATA.clip_list``, all files checked.

    Raises:
        UserError: a missing list or file, or a clip of one frame.
    """
    data, test = settings.DATA, settings.TEST
    if test.frames:
        return clips_of_frames(settings)
    if test.cityscapes:
        clips = cityscapes_clips(data.data_root, test.cityscapes)
        check_files((f for clip in clips for f in clip), data.data_root, source=f"TEST.cityscapes {test.cityscapes}")
        return clips
    prepare(settings)
    clips = read_clips(data.clip_list, layout=data.layout, frame_step=data.frame_step)
    check_files((frame for clip in clips for frame in clip), data.data_root, source=data.clip_list)
    return clips


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


def _offsets(settings: Settings, frames: list[Frame]) -> list[list[int]]:
    """The neighbours that training may draw for each frame."""
    found = _existing(settings, frames, _wanted(settings.TRAIN))
    singles = sum(not offsets for offsets in found)
    if singles and settings.frames_per_clip > 1:
        logger.warning("%d of %d frames have no neighbour: no motion loss for them", singles, len(frames))
    return found


def _opposite(settings: Settings, frames: list[Frame]) -> list[list[int]]:
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
    """Those of the wanted neighbours that are on disk; all must be, unless ``DATA.allow_single`` says otherwise."""
    data = settings.DATA
    found = existing_neighbours(frames, data.data_root, wanted, layout=data.layout, frame_step=data.frame_step)
    lacking = [frame.image for frame, offsets in zip(frames, found, strict=True) if len(offsets) < len(wanted)]
    if lacking and settings.frames_per_clip > 1 and not data.allow_single:
        raise UserError(
            f"{data.train_list}: {len(lacking)} of {len(frames)} frames lack a neighbour within "
            f"{settings.TRAIN.frame_gap} frames on disk, the first is {lacking[0]} (DATA.allow_single true trains such "
            "frames with what there is)"
        )
    return found


def _pairs(settings: Settings, frames: list[Frame], offsets: list[list[int]]) -> list[tuple[Path, Path]]:
    """Every frame with each of its neighbours."""
    data, pairs = settings.DATA, []
    for frame, own in zip(frames, offsets, strict=True):
        path = Path(data.data_root) / frame.image
        for offset in own:
            pairs.append((path, neighbour(path, offset, layout=data.layout, frame_step=data.frame_step)))
    return pairs


def _check_stored_flow(settings: Settings, frames: list[Frame], offsets: list[list[int]]) -> None:
    """Every pair that training may draw must have its flow file."""
    pairs = _pairs(settings, frames, offsets)
    missing = [pair for pair in pairs if data_set_flow(*pair) is None]
    if missing:
        raise UserError(
            f"FLOW.name stored: {len(missing)} of {len(pairs)} frame pairs have no flow file, the first "
            f"is {missing[0][0]} to {missing[0][1].name}"
        )
