"""Writes the list files of a data set; the lists of CamVid and of plain folders of frames."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from etc.data.frame_names import Layout, frame_folders, frames_in, images_in, warn_of_single_frames
from etc.data.lists import Frame, Lists, format_clips, format_frames, group_clips
from etc.errors import UserError
from utils.files import write_text

logger = logging.getLogger(__name__)

_CAMVID_SPLITS = ("train", "val", "test")
_CAMVID_STEP = 2  # of the frame numbers in val


def write_lists(lists: Lists, out: str | Path) -> None:
    """Write list files, atomically. Frames that are both trained and validated on are said in the log."""
    listed = [lists.get(name, "").splitlines() for name in ("train.lst", "val.lst")]
    trained, validated = ({line.split()[0] for line in lines if line.strip()} for lines in listed)
    shared = sorted(trained & validated)
    if shared:
        logger.warning(
            "%d of the %d frames of val.lst are in train.lst too, so that validation would measure what was trained "
            "on; the first is %s",
            *(len(shared), len(validated), shared[0]),
        )
    for name, text in lists.items():
        write_text(Path(out) / name, text)


def camvid_lists(root: str | Path) -> Lists:
    """Lists of a CamVid folder: ``train``, ``val``, ``test`` with labels in ``trainannot`` and so on.

    Returns:
        ``train.lst``, ``val.lst``, ``test.lst``, and ``val_clips.lst``: the consecutive frames of ``val``.

    Raises:
        UserError: the folder is not in that layout.
    """
    root = Path(root)
    lists, lacking = {}, []
    for split in _CAMVID_SPLITS:
        labels = {path.stem: path for path in images_in(root / f"{split}annot")}
        images = frames_in(root / split)
        frames = [
            Frame(_relative(path, root), _relative(labels[path.stem], root)) for path in images if path.stem in labels
        ]
        if frames:
            lists[f"{split}.lst"] = format_frames(frames)
        if len(frames) < len(images):
            first = next(path for path in images if path.stem not in labels)
            lacking.append(
                f"{split}: {len(images) - len(frames)} of {len(images)} frames have no label in {split}annot and are "
                f"not in {split}.lst, the first is {_relative(first, root)}"
            )
        elif not images:
            lacking.append(f"{root} has no frames in {split}: no list of {split}")
        if frames and split == "val":
            # A frame that lacks a label alone does not cut its clip.
            every = {frame.image: frame for frame in [Frame(_relative(path, root)) for path in images] + frames}
            clips = group_clips(every.values(), layout=CAMVID, frame_step=_CAMVID_STEP)
            long = [clip for clip in clips if len(clip) > 1]
            if len(long) < len(clips):
                lacking.append(f"val: {len(clips) - len(long)} clips have one frame alone and are no clips to score")
            if long:
                lists["val_clips.lst"] = format_clips(long)
    if not lists:
        raise UserError(f"{root}: expected folders train and trainannot, val and valannot, test and testannot")
    for line in lacking:
        logger.warning("%s", line)
    return lists


def folder_lists(root: str | Path) -> Lists:
    """``clips.lst`` of any folder of frames: every folder that holds frames is a clip, in natural order.

    Masks, beside the frames or in folders of their own, are left out and logged. Links to folders are followed, and
    every folder is one clip, however many links lead to it.

    Raises:
        UserError: there is no folder with at least two frames, or a path holds white space or is not UTF-8.
    """
    root = Path(root)
    folders = frame_folders(root)
    clips = [[Frame(_relative(path, root)) for path in folder] for folder in folders.values() if len(folder) > 1]
    if not clips:
        raise UserError(f"{root} holds no folder with two images or more")
    warn_of_single_frames(folders)
    return {"clips.lst": format_clips(clips)}


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


CAMVID = Layout(
    name="camvid",
    description="""train, val, test, and their labels in trainannot, valannot, testannot;
writes train.lst, val.lst, test.lst, val_clips.lst (the consecutive frames of val)""",
    # {sequence}_{number}, or {sequence}_f{number} in Seq05VD and 0006R0; the number keeps its own width
    frame_name=re.compile(r"^(?P<head>.+_f?)(?P<number>\d+)(?P<tail>)$"),
    make_lists=camvid_lists,
)
FOLDER = Layout(
    name="folder",
    description="""frames in any folder, one folder per clip, in sorted order;
writes clips.lst (every folder with two images or more is a clip)""",
    frame_name=None,
    make_lists=folder_lists,
)
