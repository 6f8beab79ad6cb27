"""Writes the list files of a data set from its official folder."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Literal

from etc.data.frame_names import IMAGE_SUFFIXES, frame_number, images_in, neighbour
from etc.data.lists import Clip, Frame, format_clips, format_frames, group_clips
from etc.errors import UserError
from utils.files import write_text

logger = logging.getLogger(__name__)

NAMES = Path(__file__).resolve().parents[2] / "data" / "lists" / "cityscapes"
CLIP_BEFORE, CLIP_AFTER = 19, 10  # Cityscapes: the annotated frame is the 20th of its 30-frame snippet
CAMVID_SPLITS = ("train", "val", "test")

_FOLDERS = ("leftImg8bit_sequence", "leftImg8bit")  # the video first

Lists = dict[str, str]


def write_lists(lists: Lists, out: str | Path) -> None:
    """Write list files, atomically."""
    for name, text in lists.items():
        write_text(Path(out) / name, text)


def cityscapes_lists(
    root: str | Path,
    *,
    clips: Literal["official", "sequences"] = "official",
    labelled: tuple[int, ...] | None = None,
) -> Lists:
    """Lists of a folder in the Cityscapes layout.

    Args:
        root: holds ``leftImg8bit`` and ``gtFine``; snippets may also lie in ``leftImg8bit_sequence``.
        clips: ``official``: the 30 frames around each annotated validation frame, all 500 and the 108 sampled ones;
            ``sequences``: every run of consecutive validation frames is a clip.
        labelled: frame numbers whose labels are listed for training and mIoU; ``None``: all.

    Returns:
        File name -> text: ``train.lst``, ``val.lst``, ``test.lst`` (without labels, for the test server), and
        ``val_clips.lst``, ``val_clips_sampled.lst`` where the folder has them.

    Raises:
        UserError: the folder is not in that layout.
    """
    root = Path(root)
    if not ((root / "leftImg8bit").is_dir() or (root / "leftImg8bit_sequence").is_dir()):
        raise UserError(f"{root} has no folder leftImg8bit: expected the Cityscapes layout")
    lists = {}
    for split in ("train", "val"):
        frames = _labelled_frames(root, split)
        if labelled is not None:
            frames = [f for f in frames if frame_number(f.image, "cityscapes").number in labelled]
        if frames:
            lists[f"{split}.lst"] = format_frames(frames)
    cities = sorted((root / "leftImg8bit" / "test").glob("*"))
    unlabelled = [Frame(_relative(path, root)) for city in cities for path in images_in(city)]
    if unlabelled:
        lists["test.lst"] = format_frames(unlabelled)
    if clips == "sequences":
        lists["val_clips.lst"] = format_clips(_sequences(root))
    else:
        annotated = {Path(frame.image).stem: frame for frame in _labelled_frames(root, "val")}
        for name, source in (("val_clips", "val_names"), ("val_clips_sampled", "val_sampled_clips")):
            stems = (NAMES / f"{source}.txt").read_text(encoding="utf-8").split()
            found = [annotated[f"{stem}_leftImg8bit"] for stem in stems if f"{stem}_leftImg8bit" in annotated]
            if len(found) == len(stems):
                lists[f"{name}.lst"] = format_clips(_snippet(frame) for frame in found)
            elif found:
                logger.warning("%s.lst is left out: %d of its %d clips are here", name, len(found), len(stems))
    if not lists:
        raise UserError(f"{root}: no frame in leftImg8bit has a label in gtFine")
    return lists


def official_clips(root: str | Path, which: Literal["sampled", "full"]) -> list[Clip]:
    """The clips of the published protocol, 30 frames around each annotated validation frame.

    Frames are named where the video is looked for first, ``leftImg8bit_sequence``, unless the annotated one lies in
    ``leftImg8bit``; the annotated frame has its label where the file is there. Nothing else is checked.
    """
    root, clips = Path(root), []
    source = {"sampled": "val_sampled_clips", "full": "val_names"}[which]
    for stem in (NAMES / f"{source}.txt").read_text(encoding="utf-8").split():
        city = stem.partition("_")[0]
        image = _image_of(root, "val", city, stem) or root / f"{_FOLDERS[0]}/val/{city}/{stem}_leftImg8bit.png"
        label = root / f"gtFine/val/{city}/{stem}_gtFine_labelIds.png"
        annotated = Frame(_relative(image, root), _relative(label, root) if label.is_file() else None)
        clips.append(_snippet(annotated))
    return clips


def camvid_lists(root: str | Path) -> Lists:
    """Lists of a CamVid folder: ``train``, ``val``, ``test`` with labels in ``trainannot`` and so on.

    Returns:
        ``train.lst``, ``val.lst``, ``test.lst``, and ``val_clips.lst``: the consecutive frames of ``val``.

    Raises:
        UserError: the folder is not in that layout.
    """
    root, lists = Path(root), {}
    for split in CAMVID_SPLITS:
        labels = {path.stem: path for path in images_in(root / f"{split}annot")}
        frames = [
            Frame(_relative(path, root), _relative(labels[path.stem], root))
            for path in images_in(root / split)
            if path.stem in labels
        ]
        if frames:
            lists[f"{split}.lst"] = format_frames(frames)
        if frames and split == "val":
            lists["val_clips.lst"] = format_clips(group_clips(frames, layout="camvid", frame_step=2))
    if not lists:
        raise UserError(f"{root}: expected folders train and trainannot, val and valannot, test and testannot")
    return lists


def folder_lists(root: str | Path) -> Lists:
    """``clips.lst`` of any folder of frames: every folder that holds images is a clip, in natural order.

    Raises:
        UserError: there is no folder with at least two images, or a path holds white space.
    """
    root = Path(root)
    folders = sorted(Path(folder) for folder, _, _ in os.walk(root, followlinks=True))
    clips = [[Frame(_relative(path, root)) for path in images_in(folder)] for folder in folders]
    clips = [clip for clip in clips if len(clip) > 1]
    if not clips:
        raise UserError(f"{root} holds no folder with two images or more")
    return {"clips.lst": format_clips(clips)}


def _labelled_frames(root: Path, split: str) -> list[Frame]:
    """Frames of a split with a label in gtFine, sorted."""
    frames, alone = [], 0
    for label in sorted((root / "gtFine" / split).glob("*/*_gtFine_labelIds.png")):
        stem = label.name.removesuffix("_gtFine_labelIds.png")
        image = _image_of(root, split, label.parent.name, stem)
        if image is None:
            alone += 1
        else:
            frames.append(Frame(_relative(image, root), _relative(label, root)))
    if alone:
        logger.warning("%s: %d labels have no frame here and are left out", split, alone)
    return frames


def _image_of(root: Path, split: str, city: str, stem: str) -> Path | None:
    """The file of a frame; from the video where it is extracted, for its neighbours."""
    names = [f"{stem}_leftImg8bit{suffix}" for suffix in IMAGE_SUFFIXES]
    files = (root / folder / split / city / name for folder in _FOLDERS for name in names)
    return next((file for file in files if file.is_file()), None)


def _snippet(annotated: Frame) -> Clip:
    """The 30 frames around an annotated one; they need not be on disk: who reads the list checks that."""
    offsets = range(-CLIP_BEFORE, CLIP_AFTER + 1)
    paths = [neighbour(Path(annotated.image), offset, layout="cityscapes") for offset in offsets]
    return [
        Frame(path.as_posix(), annotated.label if offset == 0 else None)
        for offset, path in zip(offsets, paths, strict=True)
        if path is not None
    ]


def _sequences(root: Path) -> list[Clip]:
    labels = {frame.image: frame.label for frame in _labelled_frames(root, "val")}
    cities = sorted((root / "leftImg8bit" / "val").glob("*"))
    images = [_relative(path, root) for city in cities for path in images_in(city)]
    return group_clips([Frame(image, labels.get(image)) for image in images], layout="cityscapes")


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()
