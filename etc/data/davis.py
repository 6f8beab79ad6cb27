"""The layout of DAVIS 2017: one or more objects per clip, every frame labelled.

``ImageSets/2017/train.txt`` and ``val.txt`` name the clips; frames are ``JPEGImages/480p/<clip>/<frame>.jpg``, labels
``Annotations/480p/<clip>/<frame>.png`` (``Annotations_unsupervised`` in the archive of that task). Labels are palette
PNGs: 0 is background, 1, 2, ... are the objects of the clip, which ``configs/davis`` takes together as the foreground.
"""

from __future__ import annotations

import logging
from pathlib import Path

from etc.data.frame_names import Layout
from etc.data.lists import Lists
from etc.data.parallel import Pattern, clip_names_in, clips_of_patterns, lists_of_splits
from etc.errors import UserError

logger = logging.getLogger(__name__)

_SPLITS = ("train", "val")
_SIZES = ("480p", "Full-Resolution")
_LABELS = ("Annotations", "Annotations_unsupervised")


def davis_lists(root: str | Path) -> Lists:
    """Lists of a DAVIS 2017 folder.

    Returns:
        ``<split>.lst`` and ``<split>_clips.lst`` for train and val.

    Raises:
        UserError: the folder is not in that layout.
    """
    root = Path(root)
    files = {split: root / "ImageSets" / "2017" / f"{split}.txt" for split in _SPLITS}
    splits = {split: clip_names_in(file) for split, file in files.items() if file.is_file()}
    for split in files.keys() - splits.keys() if splits else ():
        logger.warning("%s has no %s: no lists of %s", root, files[split].relative_to(root), split)
    size = next((size for size in _SIZES if (root / "JPEGImages" / size).is_dir()), None)
    kind = next((kind for kind in _LABELS if (root / kind / str(size)).is_dir()), None)
    if not splits or size is None or kind is None:
        lacking = (
            "ImageSets/2017/train.txt" if not splits else "JPEGImages/480p" if size is None else f"{_LABELS[0]}/{size}"
        )
        raise UserError(
            f"{root} has no {lacking}: expected the DAVIS 2017 layout: ImageSets/2017/train.txt and val.txt, "
            "JPEGImages/480p/<clip>/<frame>.jpg and Annotations/480p/<clip>/<frame>.png (or Annotations_unsupervised)"
        )
    frames = Pattern(f"JPEGImages/{size}/{{clip}}/{{frame}}.jpg", "frames")
    labels = Pattern(f"{kind}/{size}/{{clip}}/{{frame}}.png", "labels")
    clips = {clip: frames for (_, clip), frames in clips_of_patterns(root, frames, labels).items()}
    return lists_of_splits(root, clips, splits)


DAVIS = Layout(
    name="davis",
    description="""ImageSets/2017, JPEGImages/480p and Annotations/480p (or Annotations_unsupervised/480p), as in the
official archives of DAVIS 2017;
writes train.lst, val.lst, train_clips.lst, val_clips.lst""",
    frame_name=None,
    make_lists=davis_lists,
)
