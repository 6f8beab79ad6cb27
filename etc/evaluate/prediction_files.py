"""Predictions that anybody wrote: which file belongs to which frame, and what its values mean."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from etc.config.schema import Settings
from etc.data.frame_names import images_in
from etc.data.images import StoredPng, image_size, read_stored
from etc.data.labels import CITYSCAPES_LABEL_IDS, IGNORE, INVALID, label_table, read_colors
from etc.data.lists import Clip, Frame, prediction_names
from etc.errors import UserError

logger = logging.getLogger(__name__)

PredictionPaths = list[list[Path | None]]

_LOOKED_AT = 24  # files that tell what kind they all are
_KINDS = {"train": "train ids", "label": "Cityscapes label ids", "color": "class colours"}


class Predictions:
    """The predictions of clips, all of them found and of the size of their frames.

    Args:
        settings: ``TEST.predictions`` is the folder (empty: what ``tool/gen_video.py`` wrote), ``TEST.prediction_ids``
            what its PNGs hold, ``TEST.allow_gaps`` whether frames may lack one.
        clips: frames, relative to ``DATA.data_root``.

    Attributes:
        files: the file of each frame of each clip; ``None``: a gap.
        kind: ``train``, ``label`` or ``color``.

    Raises:
        UserError: no folder, missing predictions (how many, and the first few), files that cannot be told apart, a
            size that differs from the frame's, or values that do not tell what they mean.
    """

    def __init__(self, settings: Settings, clips: list[Clip]) -> None:
        test, data = settings.TEST, settings.DATA
        own = Path(test.save_folder) / "video" / "gray"
        self.folder = Path(test.predictions) if test.predictions else own
        self.files = prediction_files(clips, self.folder, allow_gaps=test.allow_gaps)
        _check_sizes(clips, self.files, Path(data.data_root))
        self.kind = test.prediction_ids
        if self.kind == "auto":
            # What the toolkit wrote itself is known.
            self.kind = _detected_kind(settings, self.files) if test.predictions else "train"
        label_map = "cityscapes" if self.kind == "label" else "none"
        self._table = label_table(label_map, data.classes, settings.TRAIN.ignore_label)
        self._classes = data.classes
        self._colors = read_colors(data.colors_path, data.classes) if self.kind == "color" else None

    def facts(self) -> dict[str, Any]:
        """What a result should say of its predictions: where they lay, what they held, how many frames had none, and
        for those of ``tool/gen_video.py`` what they were made with."""
        missing = sum(file is None for files in self.files for file in files)
        facts = {"folder": str(self.folder), "ids": self.kind, "missing": missing}
        try:
            note = json.loads((self.folder.parent / "source.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):  # predictions of others come without one
            return facts
        return facts | note if isinstance(note, dict) else facts

    def read(self, path: Path) -> np.ndarray:
        """A prediction as train ids, uint8 ``[H, W]``; 255 is no class.

        Raises:
            UserError: the file cannot be read or holds what its kind does not allow.
        """
        stored = read_stored(path)
        if self._colors is not None:
            return _ids_of_colors(stored.colors(), self._colors, self._classes, path)
        ids = stored.ids()
        ids = np.where(ids == 65535, IGNORE, ids) if ids.dtype == np.uint16 else ids
        highest = int(ids.max(initial=0))
        wrong = None if highest <= IGNORE else highest
        if wrong is None:
            train = self._table[ids]
            if INVALID not in train:
                return train
            wrong = int(ids[train == INVALID][0])
        if self.kind == "label":
            raise UserError(f"{path}: {wrong} is no Cityscapes label id (0..33)")
        raise UserError(
            f"{path}: id {wrong} is outside the {self._classes} classes (DATA.classes; TEST.prediction_ids says what "
            "predictions hold: train ids, Cityscapes label ids or colours)"
        )


def prediction_files(clips: list[Clip], folder: Path, *, allow_gaps: bool = False) -> PredictionPaths:
    """The prediction of every frame below a folder.

    A file belongs to the frame of the same stem, in the same folder where stems repeat. Where no stem is that of a
    frame, ``_leftImg8bit`` and words behind the number are left out (``x_1_pred``, ``x_1_gtFine_labelIds``). Where no
    name matches then either, as many predictions as a single clip has frames are taken in order; a warning says so.

    Args:
        clips: frames, by their image paths.
        folder: looked through with all folders in it.
        allow_gaps: frames without a prediction give ``None`` instead of an error.

    Raises:
        UserError: no such folder, missing predictions, or several files that may belong to one frame.
    """
    frames = [frame for clip in clips for frame in clip]
    names = prediction_names(frames)
    found: list[Path | None] = [folder / f"{name}.png" for name in names]
    if not all(file.is_file() for file in found):
        if not folder.is_dir():
            raise UserError(f"{folder} holds no predictions: write them with tool/gen_video.py, or give their folder")
        found = _matched(frames, folder)
        if len(clips) == 1 and not any(found):
            found = _in_order(clips[0], folder) or found
        missing = [folder / f"{name}.png" for name, file in zip(names, found, strict=True) if file is None]
        if missing and not (allow_gaps and len(missing) < len(frames)):
            _raise_missing(missing, len(frames), folder, allow_gaps=allow_gaps)
    rest = iter(found)
    return [[next(rest) for _ in clip] for clip in clips]


def _raise_missing(missing: list[Path], total: int, folder: Path, *, allow_gaps: bool) -> None:
    more = "".join(f", {path.name}" for path in missing[1:3]) + (", ..." if len(missing) > 3 else "")
    if any(folder.rglob("*.png")):
        hint = "write them with tool/gen_video.py" + ("" if allow_gaps else ", or score the rest with --allow-gaps")
    else:
        other = next((path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".mp4")), None)
        lossy = f" ({other.name} is lossy: its pixels are no longer ids)" if other else ""
        hint = f"the folder holds no PNG{lossy}"
    raise UserError(f"{len(missing)} of {total} predictions are missing, the first is {missing[0]}{more}: {hint}")


def _matched(frames: list[Frame], folder: Path) -> list[Path | None]:
    """By stem; where no frame has a file then, by what is left of it without the usual endings; then by order."""
    files = sorted(folder.rglob("*.png"))
    images = {frame.image: Path(frame.image) for frame in frames}
    for key in (_stem, _core):
        index = defaultdict(list)
        for file in files:
            index[key(file)].append(file)
        count = Counter(map(key, images.values()))
        found = {
            image: _nearest(path, index[key(path)], folder, repeats=count[key(path)] > 1)
            for image, path in images.items()
        }
        if any(found.values()):
            break
    owners: dict[Path, str] = {}
    for image, file in found.items():
        if file is not None and owners.setdefault(file, image) != image:
            raise UserError(f"{file} may belong to {owners[file]} and to {image}: use the frames' own names")
    return [found[frame.image] for frame in frames]


def _stem(path: Path) -> str:
    return path.stem


def _core(path: Path) -> str:
    """``x_1`` of ``x_1_leftImg8bit``, ``x_1_leftImg8bit_pred``, ``x_1_gtFine_labelIds`` and ``x_1_pred``."""
    return re.sub(r"(?<=\d)([_-][A-Za-z]+)+$", "", path.stem.replace("_leftImg8bit", ""))


def _nearest(frame: Path, files: list[Path], folder: Path, *, repeats: bool) -> Path | None:
    """The file whose folders are most like those of the frame; where frames share a name, one of them must be."""
    if not files:
        return None
    parts = set(frame.parent.parts)
    alike = [len(parts & set(file.relative_to(folder).parent.parts)) for file in files]
    best = [file for file, count in zip(files, alike, strict=True) if count == max(alike)]
    if repeats and not max(alike):
        return None
    if len(best) > 1:
        raise UserError(f"{best[0]} and {best[1]} may both be the prediction of {frame}: name one folder of them")
    return best[0]


def _in_order(clip: Clip, folder: Path) -> list[Path] | None:
    files = [path for path in images_in(folder) if path.suffix.lower() == ".png"]
    if len(files) != len(clip):
        return None
    logger.warning(
        "no name of a prediction is that of a frame; %d predictions belong to %d frames in sorted order, from %s for "
        "%s to %s for %s",
        len(files),
        len(clip),
        files[0].name,
        Path(clip[0].image).name,
        files[-1].name,
        Path(clip[-1].image).name,
    )
    return files


def _check_sizes(clips: list[Clip], files: PredictionPaths, root: Path) -> None:
    """From the heads of the files, so that nobody waits for the flow to hear of it."""
    images = (frame.image for clip in clips for frame in clip)
    every = (file for row in files for file in row)
    for image, file in {image: file for image, file in zip(images, every, strict=True) if file is not None}.items():
        size, wanted = image_size(file), image_size(root / image)
        if size != wanted:
            raise UserError(f"{file} is {size[0]}x{size[1]}, its frame {root / image} is {wanted[0]}x{wanted[1]}")


def _codes(colors: np.ndarray) -> np.ndarray:
    """One number a colour, int32 ``[...]``."""
    wide = colors.astype(np.int32)
    return (wide[..., 0] << 16) | (wide[..., 1] << 8) | wide[..., 2]


def _ids_of_colors(colors: np.ndarray, palette: np.ndarray, classes: int, path: Path) -> np.ndarray:
    """The class of each colour; black that is no class's colour has none."""
    known, first = np.unique(_codes(np.concatenate([palette[:classes], palette[-1:]])), return_index=True)
    ids = np.where(first < classes, first, IGNORE).astype(np.uint8)
    codes = _codes(colors)
    place = np.searchsorted(known, codes).clip(max=len(known) - 1)
    wrong = known[place] != codes
    if wrong.any():
        color = colors[wrong][0].tolist()
        raise UserError(f"{path}: {color} is the colour of no class of DATA.colors_path")
    return ids[place]


def _detected_kind(settings: Settings, files: PredictionPaths) -> str:
    """What the PNGs hold, told by the values of some of them; said in one line."""
    every = sorted({file for row in files for file in row if file is not None})
    chosen = every[:: max(1, len(every) // _LOOKED_AT)]
    kind, reason = _kind(settings, [read_stored(file) for file in chosen])
    logger.info(
        "predictions: %s (%s in %d of %d files; TEST.prediction_ids says otherwise)",
        _KINDS[kind],
        reason,
        len(chosen),
        len(every),
    )
    return kind


def _kind(settings: Settings, stored: list[StoredPng]) -> tuple[str, str]:
    data = settings.DATA
    with_colors = [one for one in stored if one.palette is not None or one.pixels.ndim == 3]
    if len(with_colors) == len(stored):
        used = np.unique(np.concatenate([np.unique(_codes(one.colors())) for one in stored]))
        classes = _codes(read_colors(data.colors_path, data.classes)[: data.classes])
        used = used[used != 0] if 0 not in classes else used
        if len(used) and np.isin(used, classes).all():
            return "color", f"{len(used)} colours, all of DATA.colors_path,"
    values = np.unique(np.concatenate([np.unique(one.ids()) for one in stored]))
    values = values[~np.isin(values, (IGNORE, 65535))]
    if not len(values):
        raise UserError(f"{stored[0].path} and the others hold no class, all is 255")
    span = f"values {values[0]}..{values[-1]}"
    can_be_label = data.classes == len(CITYSCAPES_LABEL_IDS) and data.label_map == "cityscapes"
    can_be_train = np.isin(values, (*range(data.classes), settings.TRAIN.ignore_label)).all()
    if can_be_label and can_be_train and np.isin(values, CITYSCAPES_LABEL_IDS).all():
        raise UserError(
            f"{stored[0].path.parent}: {span} can be train ids or Cityscapes label ids: say which by "
            "TEST.prediction_ids train or label"
        )
    if can_be_train:
        return "train", span
    if can_be_label and values[-1] < 34:
        return "label", span
    raise UserError(
        f"{stored[0].path.parent}: {span} are neither ids of the {data.classes} classes nor Cityscapes label ids: set "
        "DATA.classes, or TEST.prediction_ids"
    )
