"""Confusion counts of labelled frames; and predictions of frames in the format of the Cityscapes test server."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from etc import distributed
from etc.config import dump_settings
from etc.config.schema import Settings
from etc.data.cityscapes import CITYSCAPES, LABEL_IDS, submission_name
from etc.data.frame_names import frame_number
from etc.data.frame_values import check_values
from etc.data.images import read_image, write_png
from etc.data.labels import label_table_of, read_train_ids
from etc.data.lists import Frame, check_files, frames_sha256, read_frames
from etc.data.sources import labelled_frames
from etc.data.synthetic import prepare
from etc.errors import UserError
from etc.evaluate.results import FrameScores
from etc.metrics import confusion
from etc.predict.predictor import Predictor, predictor_from
from utils.files import write_text

logger = logging.getLogger(__name__)


def score_frames(settings: Settings, export: str | Path | None = None) -> FrameScores:
    """mIoU of the network in ``TEST.ckpt_path`` on ``TEST.test_list`` (or ``DATA.val_list``).

    Args:
        settings: the settings.
        export: folder for the predictions of all frames, see :class:`LabelExport`; frames without a label are then
            predicted, but not scored.

    Returns:
        The scores of the labelled frames; with ``export`` there may be none.

    Raises:
        UserError: missing files, a checkpoint that does not fit, or an export that cannot be made; without
            ``export`` also frames without a label.
    """
    predictor = predictor_from(settings)
    # After it, because the data may have to be rendered first.
    if export is None:
        frames, writer = labelled_frames(settings, settings.TEST.test_list), None
    else:
        frames = _listed_frames(settings)
        writer = LabelExport(export, frames, settings)
    check_values(settings, frames, settings.TEST.test_list or settings.DATA.val_list)
    if writer is not None:
        writer.start()
    counts = confusion_of(predictor, frames, settings, desc="test", export=writer)
    labelled = [frame for frame in frames if frame.label is not None]
    return FrameScores(
        counts,
        frames=len(labelled),
        checkpoint=predictor.weights_sha256,
        settings=settings,
        frames_sha256=frames_sha256(labelled, settings.DATA.data_root, named=True),
    )


def confusion_of(
    predictor: Predictor, frames: list[Frame], settings: Settings, *, desc: str, export: LabelExport | None = None
) -> Tensor:
    """Confusion counts of a predictor over the labelled frames among ``frames``, summed over all processes.

    Args:
        predictor: predicts one frame at a time.
        frames: the frames of all processes; each process takes its share.
        settings: the settings.
        desc: title of the progress bar.
        export: receives the prediction of every frame, with or without a label.

    Returns:
        int64 ``[K, K]``, rows are the labels.

    Raises:
        UserError: a frame or label that cannot be read, or labels of another size or with other classes.
    """
    data = settings.DATA
    root, counts = Path(data.data_root), torch.zeros(data.classes, data.classes, dtype=torch.int64)
    table = label_table_of(settings)
    own = frames[distributed.rank() :: distributed.world_size()]
    for frame in tqdm(own, desc=desc, unit="frame", leave=False, disable=distributed.rank() > 0):
        image = read_image(root / frame.image)
        label = None if frame.label is None else read_train_ids(root / frame.label, table, image.shape[:2])
        prediction = predictor([image])[0]
        if export is not None:
            export.write(frame, prediction)
        if label is not None:
            counts += confusion(prediction, label, data.classes)
    return distributed.sum_counts(counts)


class LabelExport:
    """Writes predictions in the format of the Cityscapes test server.

    One 8-bit PNG of label ids per frame, named ``<city>_<sequence>_<frame>_pred_labelIds.png``, in the size of the
    frame; ``settings.yaml`` is written beside them.

    Args:
        folder: the folder to write to. It must hold no PNG, because that could come from another network.
        frames: the frames that will be predicted.
        settings: the settings.

    Raises:
        UserError: classes other than those of Cityscapes, frames not named as in Cityscapes, two frames of the same
            name, or a folder with PNG files.

    Source: cityscapesScripts, evalPixelLevelSemanticLabeling.py, ``getPrediction``.
    """

    def __init__(self, folder: str | Path, frames: list[Frame], settings: Settings) -> None:
        self.folder, self.settings = Path(folder), settings
        self.label_ids = np.array(LABEL_IDS, np.uint8)
        if settings.DATA.label_map != CITYSCAPES.name:
            raise UserError("--export writes Cityscapes label ids, it needs DATA.label_map cityscapes")
        names: dict[str, str] = {}
        for frame in frames:
            if frame_number(frame.image, CITYSCAPES) is None:
                raise UserError(f"--export: {frame.image} is not named <city>_<sequence>_<frame>_leftImg8bit")
            first = names.setdefault(submission_name(frame.image), frame.image)
            if first != frame.image:
                raise UserError(f"--export: {first} and {frame.image} would have the same file")
        there = sum(1 for _ in self.folder.rglob("*.png"))
        if there:
            raise UserError(f"--export {folder} holds {there} PNG files already: give a new folder")

    def start(self) -> None:
        """Write the settings, after all processes have found the folder empty."""
        distributed.barrier()
        if distributed.rank() == 0:
            write_text(self.folder / "settings.yaml", dump_settings(self.settings))

    def write(self, frame: Frame, ids: np.ndarray) -> None:
        """Write the prediction of a frame, given as train ids, uint8 ``[H, W]``."""
        write_png(self.folder / submission_name(frame.image), self.label_ids[ids])


def _listed_frames(settings: Settings) -> list[Frame]:
    """The frames to test, with or without a label, all files checked."""
    prepare(settings)
    path = settings.TEST.test_list or settings.DATA.val_list
    frames = read_frames(path)
    check_files(frames, settings.DATA.data_root, source=path)
    unlabelled = sum(frame.label is None for frame in frames)
    if unlabelled:
        logger.info("%s: %d of %d frames have no label and are predicted, not scored", path, unlabelled, len(frames))
    return frames
