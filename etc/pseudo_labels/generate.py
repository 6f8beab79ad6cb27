"""Pseudo labels for unlabelled video: what a teacher predicts with confidence and neighbouring frames confirm.

Two passes. The first predicts every frame once, keeps class and confidence of each pixel on disk and counts
confidences into one histogram per class; the second drops pixels below the confidence threshold. Memory does not
grow with the number of frames, and other thresholds need no second prediction. Processes started by torchrun share
the frames.
"""

from __future__ import annotations

import os
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from etc import distributed
from etc.config.schema import Settings
from etc.data.breaks import runs_in_folders
from etc.data.cityscapes import label_path
from etc.data.earlier_files import names_in_use
from etc.data.frame_names import frames_in, neighbour
from etc.data.frame_values import check_values
from etc.data.images import read_image, read_png16, write_png
from etc.data.labels import IGNORE, label_table, label_table_of, read_train_ids
from etc.data.layouts import COLOR, layout_named
from etc.data.lists import Frame, check_files, format_frames, prediction_names, read_frames
from etc.data.origin import Origin, check_frame, digest, read_origin
from etc.data.synthetic import prepare
from etc.data.video import AHEAD, DECODERS
from etc.distributed import device_of
from etc.errors import UserError
from etc.flow.build import FlowSource, flow_source
from etc.metrics import confusion
from etc.predict.clips import WRITERS
from etc.predict.predictor import Predictor, predictor_from
from etc.predict.provenance import claim_output_folder, provenance_of
from etc.pseudo_labels.selection import (
    LEVELS,
    STEPS,
    Choice,
    Neighbour,
    confidence_levels,
    confidence_thresholds,
    temporally_consistent,
)
from utils.threads import TaskQueue, ordered_map

LIST_FILE = "train.lst"


@dataclass(frozen=True)
class PseudoLabels:
    """The frames, their files, and the counts.

    Attributes:
        frames: the frames, each with its own label where it has one.
        raw: the file of the teacher's prediction of each frame, see :func:`read_teacher`.
        labels: the file of the pseudo labels of each frame.
        filled: bool ``[N]``, whether any label of a frame was kept.
        predicted, kept: pixels that the teacher gave to each class, and how many of them were kept; int64 ``[K]``.
        least: the least confidence of each class, float64 ``[K]``.
        before, after: confusion counts against the frames' own labels, int64 ``[K, K]``.
    """

    frames: list[Frame]
    raw: list[Path]
    labels: list[Path]
    filled: Tensor
    predicted: Tensor
    kept: Tensor
    least: Tensor
    before: Tensor
    after: Tensor


def make_pseudo_labels(
    settings: Settings, choice: Choice, frames: list[Frame], out: str | Path, *, overwrite: bool = False
) -> PseudoLabels:
    """Write ``labels/<name>.png`` of every frame into a folder, in the encoding that ``DATA.label_map`` reads.

    The teacher is ``TEST.ckpt_path`` with the prediction settings of section TEST. Its predictions are kept in
    ``teacher``: a run that was interrupted, or one with another choice, predicts only what is missing there. Pixels
    that are not kept are 255.

    Args:
        settings: the settings.
        choice: which labels are kept.
        frames: see :func:`video_frames`; their own labels are only compared with the pseudo labels.
        out: the folder.
        overwrite: delete predictions of another teacher in ``out``.

    Raises:
        UserError: an invalid choice, frames or a checkpoint that cannot be read, predictions of another
            teacher in ``out``, or no flow for ``temporal``.
    """
    choice.check()
    encoded = _encoding(settings)
    check_values(settings, frames, "the frames to label")
    out, plan = Path(out), _plan(settings, frames, Path(out), temporal=choice.temporal)
    flow = flow_source(settings, device_of(settings.TEST.device)) if choice.temporal else None
    if flow is not None:
        _check_flow(flow, plan)
    predictor = predictor_from(settings)
    note = provenance_of(settings, predictor.weights_sha256)
    del note["colors_sha256"]  # no palette here
    claim_output_folder(out / "teacher", note, settings, parts=("raw",), overwrite=overwrite)
    if distributed.rank() == 0:
        # It is written again when all labels are there: an interrupted run leaves no list that mixes two choices.
        (out / LIST_FILE).unlink(missing_ok=True)
    # Consecutive frames go to one process, because the flow between neighbours is needed twice.
    start, stop = (len(frames) * (distributed.rank() + i) // distributed.world_size() for i in (0, 1))
    # The sum waits for all processes: the prediction of a neighbour may be made by another one.
    histogram = distributed.sum_counts(_teach(predictor, plan, range(start, stop), digest(note)))
    least = confidence_thresholds(histogram, choice)
    result = _filter(settings, plan, least, flow, range(start, stop), encoded)
    filled, kept, before, after = (distributed.sum_counts(counts) for counts in result)
    confidences = 1 - torch.exp2(-least.double() / STEPS)
    return PseudoLabels(frames, plan.raw, plan.labels, filled > 0, histogram.sum(1), kept, confidences, before, after)


def video_frames(settings: Settings, source: str | None = None) -> list[Frame]:
    """The frames to label, all files checked.

    Args:
        settings: the settings.
        source: a list file, or a folder of frames; ``None``: the video around the frames of ``DATA.train_list``, as far
            as it lies on disk.

    Returns:
        Frames with paths as a list has them; their labels where the list or, by its naming, Cityscapes has them.

    Raises:
        UserError: a missing list, folder or file.
    """
    if source is not None and not Path(source).is_dir():
        read_frames(source)  # looked at before data is rendered
    prepare(settings)
    root = Path(settings.DATA.data_root)
    if source is None:
        listed = read_frames(settings.DATA.train_list)
        check_files(listed, root, source=settings.DATA.train_list)
        frames = _around(listed, settings)
    elif Path(source).is_dir():
        frames = [Frame(_below(path, root)) for path in frames_in(Path(source))]
        if not frames:
            raise UserError(f"{source} holds no image")
    else:
        frames = read_frames(source)
    frames = list({frame.image: frame for frame in frames}.values())
    if settings.DATA.label_map == "cityscapes":
        frames = [frame if frame.label else frame._replace(label=_cityscapes_label(frame, root)) for frame in frames]
    check_files(frames, root, source=source or settings.DATA.train_list)
    return frames


def training_list(made: PseudoLabels, settings: Settings, *, keep_listed: bool) -> str:
    """The text of a list file to train on; frames without any label left are not in it.

    Args:
        made: the labels.
        settings: name the folder that the list is relative to.
        keep_listed: frames that have a label in ``DATA.train_list`` are listed with that one.

    Raises:
        UserError: a path with white space.
    """
    listed = read_frames(settings.DATA.train_list) if keep_listed else []
    known = {frame.image: frame for frame in listed if frame.label is not None}
    root, frames = Path(settings.DATA.data_root), []
    for frame, label, filled in zip(made.frames, made.labels, made.filled.tolist(), strict=True):
        if frame.image in known:
            frames.append(known[frame.image])
        elif filled:
            frames.append(Frame(frame.image, _below(label, root)))
    return format_frames(frames)


class _Plan(NamedTuple):
    """Of each frame: the list entry, its file, that of the teacher's prediction, that of the pseudo labels, and which
    of the frames are its neighbours."""

    frames: list[Frame]
    images: list[Path]
    raw: list[Path]
    labels: list[Path]
    near: list[list[int]]


def _plan(settings: Settings, frames: list[Frame], out: Path, *, temporal: bool) -> _Plan:
    data, names = settings.DATA, prediction_names(frames, settings.DATA.data_root)
    images = [Path(data.data_root) / frame.image for frame in frames]
    kept = names_in_use(out / "teacher/raw", frames, names, images)
    near: list[list[int]] = [[] for _ in frames]
    if temporal:
        layout = layout_named(data.layout)
        index = {image: i for i, image in enumerate(images)}
        # Names with frame numbers skip what is missing by themselves.
        runs = runs_in_folders({image.parent for image in images}, settings) if layout.frame_name is None else {}
        for image, own in zip(images, near, strict=True):
            paths = [neighbour(image, o, layout=layout, frame_step=data.frame_step) for o in (-1, 1)]
            own += [index[path] for path in paths if path in index and runs.get(path) == runs.get(image)]
        if not any(near):
            raise UserError("--temporal: no two of the frames follow each other (DATA.layout, DATA.frame_step)")
    raw = [out / "teacher/raw" / f"{name}.png" for name in kept]
    labels = [out / "labels" / f"{name}.png" for name in names]
    # Paths that a list cannot hold are an error now, before the work.
    format_frames(
        Frame(frame.image, _below(path, Path(data.data_root))) for frame, path in zip(frames, labels, strict=True)
    )
    return _Plan(frames, images, raw, labels, near)


def _check_flow(flow: FlowSource, plan: _Plan) -> None:
    pairs = [(plan.images[i], plan.images[k]) for i, near in enumerate(plan.near) for k in near]
    missing = [pair for pair in pairs if not flow.available(*pair)]
    if missing:
        raise UserError(
            f"--temporal with FLOW.name dataset: {len(missing)} of {len(pairs)} frame pairs have no flow file, the "
            f"first is {missing[0][0]} to {missing[0][1].name}; FLOW.name dis computes flow"
        )


def _teach(predictor: Predictor, plan: _Plan, own: range, made_with: str) -> Tensor:
    """Predict missing frames and count confidence levels, int64 ``[K, LEVELS]``."""
    histogram = torch.zeros(predictor.classes * LEVELS, dtype=torch.int64)
    loaded = ordered_map(lambda i: _load(plan.images[i], plan.raw[i], made_with), own, workers=DECODERS, ahead=AHEAD)
    bar = tqdm(total=len(own), desc="teacher", unit="frame", disable=distributed.rank() > 0)
    with bar, closing(loaded), TaskQueue(workers=WRITERS, pending=2 * WRITERS) as writers:
        for index, (rgb, prediction, origin) in zip(own, loaded, strict=True):
            if prediction is None:
                best, ids = predictor.probabilities([rgb])[0].max(0)
                channels = [ids, confidence_levels(1 - best), torch.zeros_like(ids)]
                prediction = torch.stack(channels, -1).cpu().numpy().astype(np.uint16)
                writers.put(partial(write_png, origin=origin.text), plan.raw[index], prediction)
            ids, levels = _unpacked(prediction, plan.raw[index], predictor.classes)
            histogram += torch.bincount((ids.long() * LEVELS + levels).flatten(), minlength=len(histogram))
            bar.update()
    return histogram.view(predictor.classes, LEVELS)


def _load(image: Path, raw: Path, made_with: str) -> tuple[np.ndarray, np.ndarray | None, Origin]:
    """A frame, its prediction where it is there and of this frame as it is now, and what a prediction records."""
    origin, rgb, old = Origin.of([image], made_with), read_image(image), read_origin(raw)
    if old is not None:
        check_frame(raw, old, image)
    if old is None or not old.is_of([image], made_with):
        return rgb, None, origin
    try:
        kept = read_png16(raw)
    except UserError:  # damaged: predicted again
        return rgb, None, origin
    return rgb, kept if kept.shape == rgb.shape else None, origin


def read_teacher(raw: Path, classes: int) -> tuple[Tensor, Tensor]:
    """The teacher's prediction in a file: train ids, uint8 ``[H, W]``, and confidence levels, int64 ``[H, W]``.

    Raises:
        UserError: the file is missing, damaged or something else.
    """
    return _unpacked(read_png16(raw), raw, classes)


def _unpacked(pixels: np.ndarray, raw: Path, classes: int) -> tuple[Tensor, Tensor]:
    ids, levels = pixels[..., 0], pixels[..., 1]
    if ids.max() >= classes or levels.max() >= LEVELS:
        raise UserError(f"{raw} holds no prediction of this teacher (class or confidence out of range): delete it")
    return torch.from_numpy(ids.astype(np.uint8)), torch.from_numpy(levels.astype(np.int64))


def _filter(
    settings: Settings, plan: _Plan, least: Tensor, flow: FlowSource | None, own: range, encoded: np.ndarray
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Write the labels that are kept; returns which frames have any, pixels kept, and both confusion matrices."""
    data = settings.DATA
    classes, root = data.classes, Path(data.data_root)
    table = label_table_of(settings)
    filled, kept = torch.zeros(len(plan.frames), dtype=torch.int64), torch.zeros(classes, dtype=torch.int64)
    before, after = torch.zeros(2, classes, classes, dtype=torch.int64)
    ignored = torch.tensor(IGNORE, dtype=torch.uint8)
    with TaskQueue(workers=WRITERS, pending=2 * WRITERS) as writers:
        for index in tqdm(own, desc="filter", unit="frame", disable=distributed.rank() > 0):
            ids, levels = read_teacher(plan.raw[index], classes)
            height, width = ids.shape
            keep = levels >= least[ids.long()]
            if flow is not None:
                keep &= temporally_consistent(ids, _beside(plan, index, (height, width), flow, settings), classes)
            writers.put(write_png, plan.labels[index], encoded[torch.where(keep, ids, ignored).numpy()])
            kept += torch.bincount(ids[keep], minlength=classes)
            filled[index] = keep.any()
            label = plan.frames[index].label
            if label is not None:
                truth = torch.from_numpy(read_train_ids(root / label, table, (height, width)))
                before += confusion(ids, truth, classes)
                after += confusion(ids, torch.where(keep, truth, ignored), classes)
    return filled, kept, before, after


def _beside(plan: _Plan, index: int, shape: tuple[int, int], flow: FlowSource, settings: Settings) -> list[Neighbour]:
    neighbours, image = [], plan.images[index]
    for k in plan.near[index]:
        forward, visible = flow.with_validity(image, plan.images[k], shape)
        backward = None
        if settings.FLOW.occlusion and visible is None and flow.available(plan.images[k], image):
            backward = torch.from_numpy(flow(plan.images[k], image, shape))
        seen = torch.from_numpy(visible) if settings.FLOW.occlusion and visible is not None else None
        ids, _ = read_teacher(plan.raw[k], settings.DATA.classes)
        neighbours.append(Neighbour(ids, torch.from_numpy(forward), backward, seen))
    return neighbours


def _encoding(settings: Settings) -> np.ndarray:
    """Train id -> the value that stands for it in label files, uint8 or uint16 ``[256]``; void for what is no class.

    Raises:
        UserError: ``DATA.label_map`` cannot be written, because it has no value for a class or for void, or is colours.
    """
    data = settings.DATA
    if data.label_map == COLOR:
        raise UserError(
            "DATA.label_map color reads colours, pseudo labels are written as ids: set DATA.label_map none here and "
            "for the training on the list that this writes"
        )
    table = label_table(data.label_map, data.classes, settings.TRAIN.ignore_label)
    first = {int(number): value for value, number in reversed([*enumerate(table)])}
    void = IGNORE if table[IGNORE] == IGNORE else first.get(IGNORE)
    lacking = [number for number in range(data.classes) if number not in first]
    if void is None or (lacking and data.label_map != "none"):
        what = "a value to ignore (train id 255)" if void is None else f"class {lacking[0]}"
        raise UserError(f"DATA.label_map gives no label value for {what}, and pseudo labels need one: add it")
    values = np.full(256, void, np.uint8 if len(table) == 256 else np.uint16)
    for number in range(data.classes):
        values[number] = first.get(number, void)
    return values


def _around(listed: list[Frame], settings: Settings) -> list[Frame]:
    """Listed frames and those before and after them, as far as they lie on disk without a gap."""
    data = settings.DATA
    beside = partial(neighbour, layout=layout_named(data.layout), frame_step=data.frame_step)
    found = {frame.image: frame for frame in listed}
    for frame in listed:
        for step in (-1, 1):
            path = beside(Path(data.data_root) / frame.image, step)
            while path is not None and path.is_file():
                image = Path(frame.image).with_name(path.name).as_posix()
                if image in found:
                    break
                found[image] = Frame(image)
                path = beside(path, step)
    return [found[image] for image in sorted(found)]


def _cityscapes_label(frame: Frame, root: Path) -> str | None:
    """The label that Cityscapes has for a frame, if it has one."""
    label = label_path(Path(frame.image))
    return label.as_posix() if label is not None and (root / label).is_file() else None


def _below(path: Path, root: Path) -> str:
    """A path as a list has it. The folders are resolved: the data set may be a link, and .. leads out of its target."""
    return Path(os.path.relpath(path.parent.resolve() / path.name, root.resolve())).as_posix()
