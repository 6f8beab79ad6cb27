"""The layout of VSPW: 124 classes, every frame labelled.

``train.txt``, ``val.txt`` and ``test.txt`` name the clips; frames are ``data/<clip>/origin/<frame>.jpg``, labels
``data/<clip>/mask/<frame>.png`` (there are none for test). Label value 0 is "others", 254 and 255 are void, all ignored
by the official evaluation; 1..124 are the classes, named in ``label_num_dic_final.json``.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from etc.data.frame_names import Layout
from etc.data.lists import Lists
from etc.data.parallel import Pattern, clip_names_in, clips_of_patterns, lists_of_splits
from etc.errors import UserError
from utils.files import regular_file

logger = logging.getLogger(__name__)

_SPLITS = ("train", "val", "test")
_CLASSES = 124
_NAMES = "label_num_dic_final.json"
_EXPECTED = (
    f"expected the VSPW layout: train.txt and val.txt, {_NAMES}, data/<clip>/origin/<frame>.jpg and "
    "data/<clip>/mask/<frame>.png"
)


def vspw_lists(root: str | Path) -> Lists:
    """Lists of a VSPW folder.

    Returns:
        For train, val and test: ``<split>.lst``, its labelled frames, and ``<split>_clips.lst``; and ``names.txt``, the
        names of the classes as the data set's own file has them, in the order of the train ids.

    Raises:
        UserError: the folder is not in that layout.
    """
    root = Path(root)
    splits = {split: clip_names_in(root / f"{split}.txt") for split in _SPLITS if (root / f"{split}.txt").is_file()}
    if not splits.keys() & {"train", "val"}:
        raise UserError(f"{root} has neither train.txt nor val.txt: {_EXPECTED}")
    if not (root / "data").is_dir():
        raise UserError(f"{root} has no folder data: {_EXPECTED}")
    names = class_names(root / _NAMES)
    frames = Pattern("data/{clip}/origin/{frame}.jpg", "frames")
    labels = Pattern("data/{clip}/mask/{frame}.png", "labels")
    clips = {clip: frames for (_, clip), frames in clips_of_patterns(root, frames, labels).items()}
    lists = lists_of_splits(root, clips, splits)
    for split in ("train", "val"):
        if split not in splits:
            logger.warning("%s has no %s.txt: no lists of %s", root, split, split)
    return lists | {"names.txt": "".join(f"{name}\n" for name in names)}


def class_names(path: Path) -> list[str]:
    """The names of the classes, which the file gives with their label values, ``{"wall": "1", ...}``.

    Raises:
        UserError: the file cannot be read, or holds something else.
    """
    try:
        values = json.loads(regular_file(path).read_text(encoding="utf-8"))
        names = {int(value): " ".join(name.split()) for name, value in values.items()}
    except OSError as error:
        raise UserError(f"cannot read {path}, which names the classes: {error.strerror}; {_EXPECTED}") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(f'{path}: expected the class names of VSPW as JSON, {{"wall": "1", ...}}') from error
    if names.keys() - {0} != {*range(1, _CLASSES + 1)} or len(names) < len(values) or not all(names.values()):
        raise UserError(f"{path}: expected one name for each of the label values 1..{_CLASSES} (and 0, others)")
    return [names[value] for value in range(1, _CLASSES + 1)]


VSPW = Layout(
    name="vspw",
    description=f"""train.txt, val.txt and test.txt, {_NAMES}, data/<clip>/origin and data/<clip>/mask, as in the
official archive VSPW_480p;
writes train.lst, val.lst (frames with a label), train_clips.lst, val_clips.lst, test_clips.lst (all frames), and
names.txt (the names of the 124 classes)""",
    frame_name=None,
    make_lists=vspw_lists,
)
