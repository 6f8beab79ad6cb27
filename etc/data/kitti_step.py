"""The layout of KITTI-STEP: the 19 classes of Cityscapes on the sequences of KITTI tracking, every frame labelled.

Labels are ``panoptic_maps/<split>/<sequence>/<frame>.png`` with the train id in the red channel, 255 void, and the
instance in green and blue. Frames are those of KITTI tracking, ``image_02/<sequence>/<frame>.png``.
"""

from __future__ import annotations

import logging
from pathlib import Path

from etc.data.frame_names import Layout
from etc.data.lists import Lists
from etc.data.parallel import Pattern, clips_of_patterns, lists_of_clips
from etc.errors import UserError

logger = logging.getLogger(__name__)

_SPLITS = ("train", "val")
_LABELS = "panoptic_maps"
_FRAMES = ("training/image_02", "image_02", "images/{split}")  # as KITTI's archive, or arranged anew, has them
VAL_SEQUENCES = ("0002", "0006", "0007", "0008", "0010", "0013", "0014", "0016", "0018")


def kitti_step_lists(root: str | Path) -> Lists:
    """Lists of a KITTI-STEP folder.

    Returns:
        ``<split>.lst`` and ``<split>_clips.lst`` for train and val. A sequence is a clip; one whose numbers have a gap
        (0001) is cut there when it is read (``DATA.gaps``).

    Raises:
        UserError: the folder is not in that layout.
    """
    root = Path(root)
    lists: Lists = {}
    for split in _SPLITS:
        if not (root / _LABELS / split).is_dir():
            continue
        places = [place.replace("{split}", split) for place in _FRAMES]
        folder = next((place for place in places if (root / place).is_dir()), None)
        if folder is None:
            raise UserError(
                f"{root} has none of the folders {', '.join(places)}: put or link image_02 of KITTI tracking there, "
                f"the frames of {_LABELS}/{split}"
            )
        frames = Pattern(f"{folder}/{{clip}}/{{frame}}.png", "frames")
        labels = Pattern(f"{_LABELS}/{split}/{{clip}}/{{frame}}.png", "labels")
        # image_02 holds the sequences of both splits
        found = {
            clip: own for (_, clip), own in clips_of_patterns(root, frames, labels).items() if any(f.label for f in own)
        }
        lists |= lists_of_clips(split, list(found.values()))
        _log_sequences(split, list(found))
    lacking = [split for split in _SPLITS if lists and not (root / _LABELS / split).is_dir()]
    for split in lacking:
        logger.warning("%s has no %s/%s: no lists of %s", root, _LABELS, split, split)
    if not lists:
        raise UserError(
            f"{root} has no {_LABELS}/train and no {_LABELS}/val: expected the KITTI-STEP layout: "
            f"{_LABELS}/<split>/<sequence>/<frame>.png, and training/image_02/<sequence>/<frame>.png of KITTI tracking"
        )
    return lists


def _log_sequences(split: str, found: list[str]) -> None:
    """Say where a sequence belongs to the other part of the official division."""
    wrong = [name for name in found if (name in VAL_SEQUENCES) != (split == "val")]
    if wrong:
        logger.warning(
            "%s/%s holds %s, which the official division has in %s: scores are not those of the official one",
            *(_LABELS, split, ", ".join(wrong), "train" if split == "val" else "val"),
        )


KITTI_STEP = Layout(
    name="kitti_step",
    description=f"""{_LABELS}/train, {_LABELS}/val, and image_02 of KITTI tracking, as training/image_02, image_02 or
images/<split>;
writes train.lst, val.lst, train_clips.lst, val_clips.lst""",
    frame_name=None,
    make_lists=kitti_step_lists,
)
