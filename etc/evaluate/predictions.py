"""The predictions that are scored: their files, and the train ids in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

from etc import distributed
from etc.config.schema import Settings
from etc.data.cityscapes import CITYSCAPES
from etc.data.layouts import COLOR, RED
from etc.data.lists import Clip
from etc.data.origin import digest
from etc.errors import UserError
from etc.evaluate.prediction_files import (
    check_is_folder,
    check_made_alike,
    check_origins,
    check_sizes,
    check_surplus,
    prediction_files,
)
from etc.evaluate.prediction_ids import ClassValues, Kind, PredictionReader, detect_kind
from utils.files import regular_file, sha256_of
from utils.locks import writer_of


def predictions_from(settings: Settings, clips: list[Clip]) -> Predictions:
    """The predictions that section ``TEST`` describes: those of ``TEST.predictions``, or else of ``tool/gen_video.py``.

    Args:
        settings: the settings.
        clips: frames, relative to ``DATA.data_root``.

    Raises:
        UserError: as :class:`Predictions`, or more predictions than ``TEST.frames``, a video, has frames.
    """
    data, test = settings.DATA, settings.TEST
    label_map = data.label_map
    setting = "DATA.label_map"
    if isinstance(test.prediction_ids, dict):
        kind: Kind | Literal["auto"] = "label"
        label_map, setting = test.prediction_ids, "TEST.prediction_ids"
    else:
        kind = test.prediction_ids
    if kind == "auto" and not test.predictions:
        kind = "train"  # as tool/gen_video.py writes them
    if label_map in ("none", COLOR, RED):
        # Data sets whose labels are train ids come without label ids; then those of Cityscapes may be stated.
        label_map = CITYSCAPES.name if kind == "label" else "none"
    predictions = Predictions(
        clips,
        _folder(settings),
        data_root=Path(data.data_root),
        values=ClassValues(data.classes, settings.TRAIN.ignore_label, label_map, data.colors_path, setting),
        kind=kind,
        allow_gaps=test.allow_gaps,
    )
    if test.frames:
        check_surplus(predictions.files, test.frames)
    return predictions


def check_predictions_folder(settings: Settings) -> None:
    """Raise UserError where the folder that section ``TEST`` describes is not there; its files need the clips."""
    check_is_folder(_folder(settings))


def _folder(settings: Settings) -> Path:
    test = settings.TEST
    return Path(test.predictions) if test.predictions else Path(test.save_folder) / "video" / "gray"


def check_not_written(folder: Path) -> None:
    """Raise UserError where ``tool/gen_video.py`` is writing the predictions in a folder right now."""
    if distributed.rank():  # the processes of one run would take each other's look for a lock
        return
    writer = writer_of(folder.parent)
    if writer is not None and (folder.parent / "source.json").is_file():
        raise UserError(f"the predictions in {folder} are being written by {writer}: wait for it to end")


class Predictions:
    """The predictions of clips, checked to be complete and of the size of their frames.

    Args:
        clips: frames, relative to ``data_root``.
        folder: holds the prediction files, see :func:`~etc.evaluate.prediction_files.prediction_files`.
        data_root: folder of the frames.
        values: the values that stand for the classes in the files.
        kind: what the files hold; ``auto`` detects it from their values.
        allow_gaps: whether frames may lack a prediction.

    Attributes:
        files: the file of each frame of each clip; ``None``: a gap.
        kind: ``train``, ``label`` or ``color``.
        reader: reads a file as :meth:`read` does, and does not ask who writes the folder.
        fingerprint: text that changes with any byte of the files.

    Raises:
        UserError: no folder, missing predictions (how many, and the first few), several files for one frame, a size
            that differs from the frame's, predictions of other frames, or of several checkpoints or settings, or values
            that fit no kind or two kinds; another run that is writing the folder.
    """

    def __init__(
        self,
        clips: list[Clip],
        folder: Path,
        *,
        data_root: Path,
        values: ClassValues,
        kind: Kind | Literal["auto"] = "auto",
        allow_gaps: bool = False,
    ) -> None:
        self.folder = folder
        check_not_written(folder)
        self.files = prediction_files(clips, folder, data_root=data_root, allow_gaps=allow_gaps)
        check_sizes(clips, self.files, data_root)
        frames = [data_root / frame.image for clip in clips for frame in clip]
        every = [file for row in self.files for file in row]
        check_origins(frames, every)
        check_made_alike(every, self._note_file, self._note())
        found = [file for file in every if file is not None]
        self.fingerprint = self._fingerprint()
        self.reader = PredictionReader(detect_kind(found, values) if kind == "auto" else kind, values)
        self.kind = self.reader.kind

    def read(self, path: Path) -> np.ndarray:
        """A prediction as train ids, uint8 ``[H, W]``; 255 is no class.

        Raises:
            UserError: the file cannot be read, holds a value that its kind does not allow, or another run writes it.
        """
        try:
            return self.reader(path)
        except UserError:
            check_not_written(self.folder)
            raise

    def check_unchanged(self) -> None:
        """Raise UserError where a file is no longer what it was at the start: the scores would be of no run."""
        try:
            unchanged = self._fingerprint() == self.fingerprint
        except OSError:
            unchanged = False
        if not unchanged:
            check_not_written(self.folder)
            raise UserError(f"the predictions in {self.folder} changed while they were scored: score them again")

    def _fingerprint(self) -> str:
        every = [file for row in self.files for file in row]
        return digest({str(i): file and sha256_of(file) for i, file in enumerate(every)})

    def facts(self) -> dict[str, Any]:
        """What a result records of its predictions.

        Returns:
            ``folder``, ``ids`` (the kind), ``missing`` (number of gaps), ``fingerprint``, and for predictions of
            ``tool/gen_video.py`` what they were made with.
        """
        missing = sum(file is None for files in self.files for file in files)
        facts = {"folder": str(self.folder), "ids": self.kind, "missing": missing, "fingerprint": self.fingerprint}
        return facts | (self._note() or {})

    @property
    def _note_file(self) -> Path:
        return self.folder.parent / "source.json"

    def _note(self) -> dict[str, Any] | None:
        """What ``tool/gen_video.py`` says of its predictions; those of other methods come without."""
        try:
            note = json.loads(regular_file(self._note_file).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return note if isinstance(note, dict) else None
