"""The Cityscapes layout: names of frames, labels and flow, the label ids, the official splits and clips.

Files are ``leftImg8bit/<split>/<city>/<city>_<sequence>_<frame>_leftImg8bit.png`` with the label
``gtFine/<split>/<city>/<city>_<sequence>_<frame>_gtFine_labelIds.png``. The 30-frame snippets of the video lie in
``leftImg8bit_sequence``. ``<city>_<sequence>_<frame>`` is called the frame's id here.
"""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Literal

from etc.data.folders import check_name, subfolders
from etc.data.frame_names import SUFFIXES_ON_DISK, Layout, frame_number, frames_in, neighbour
from etc.data.lists import Clip, Frame, Lists, format_clips, format_frames, group_clips
from etc.errors import UserError

logger = logging.getLogger(__name__)

OfficialClips = Literal["sampled", "full"]

FRAMES, SEQUENCES, LABELS, FLOW = "leftImg8bit", "leftImg8bit_sequence", "gtFine", "flow"
FRAME_TAIL, LABEL_TAIL = "_leftImg8bit", "_gtFine_labelIds"

# labelIds of the 19 train ids, in their order (cityscapesScripts, labels.py).
LABEL_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)

CLIP_BEFORE, CLIP_AFTER = 19, 10  # the annotated frame is the 20th of its 30-frame snippet
# What the published temporal consistency is measured on ("full" is the whole validation split): clips, frames, pairs.
PUBLISHED_CLIPS: dict[OfficialClips, tuple[int, int, int]] = {"sampled": (108, 3240, 3132), "full": (500, 15000, 14500)}

_FOLDERS = (SEQUENCES, FRAMES)  # the video first
SPLITS = Path(__file__).resolve().parents[2] / "data" / "lists" / "cityscapes"
_ID_LISTS: dict[OfficialClips, str] = {"sampled": "val_sampled_clips.txt", "full": "val_names.txt"}
_CLIP_LISTS: dict[str, OfficialClips] = {"val_clips.lst": "full", "val_clips_sampled.lst": "sampled"}


def frame_id(image: str | Path) -> str:
    """``<city>_<sequence>_<frame>`` of a frame; the stem of a file that is not named as Cityscapes names frames."""
    return Path(image).stem.removesuffix(FRAME_TAIL)


def frame_name(frame: str) -> str:
    """File name of the frame of an id, as PNG."""
    return f"{frame}{FRAME_TAIL}.png"


def label_name(frame: str) -> str:
    """File name of the label map of an id."""
    return f"{frame}{LABEL_TAIL}.png"


def submission_name(image: str | Path) -> str:
    """File name of a prediction for the test server, which looks for the frame's id at its beginning."""
    return f"{frame_id(image)}_pred_labelIds.png"


def label_path(image: Path) -> Path | None:
    """Where the label map of a frame belongs; ``None`` for a frame outside ``leftImg8bit`` and its video folder."""
    folder = _parallel(image.parent, _FOLDERS, LABELS)
    return folder and folder / label_name(frame_id(image))


def flow_folder(frames: Path) -> Path | None:
    """The folder of the flow files of a folder of frames; ``None`` for a folder outside ``leftImg8bit``."""
    return _parallel(frames, (FRAMES,), FLOW)


def frame_folder(flow: Path) -> Path | None:
    """The folder of the frames of a folder of flow files; ``None`` for a folder outside ``flow``."""
    return _parallel(flow, (FLOW,), FRAMES)


def _parallel(folder: Path, kinds: tuple[str, ...], other: str) -> Path | None:
    """The folder with its last part that is one of ``kinds`` replaced by ``other``."""
    parts = list(folder.parts)
    index = next((i for i in reversed(range(len(parts))) if parts[i] in kinds), None)
    return None if index is None else Path(*parts[:index], other, *parts[index + 1 :])


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
        ``val_clips.lst``, ``val_clips_sampled.lst`` if the folder has them.

    Raises:
        UserError: the folder is not in that layout.
    """
    root = Path(root)
    if not any((root / folder).is_dir() for folder in _FOLDERS):
        raise UserError(
            f"{root} has no folder {FRAMES}: expected the Cityscapes layout: "
            f"{FRAMES}/<split>/<city>/<city>_<sequence>_<frame>{FRAME_TAIL}.png and "
            f"{LABELS}/<split>/<city>/<city>_<sequence>_<frame>{LABEL_TAIL}.png"
        )
    lists = {}
    for split in ("train", "val"):
        frames = _labelled_frames(root, split)
        images = {frame_id(path) for path in _images_of_split(root, split)}
        bare = sorted(images - {frame_id(frame.image) for frame in frames})
        if bare:
            logger.info(
                "%s: %d of %d frames in %s have no label, the first is %s",
                split,
                len(bare),
                len(images),
                FRAMES,
                bare[0],
            )
        if labelled is not None:
            numbers = [frame_number(frame.image, CITYSCAPES) for frame in frames]
            frames = [f for f, n in zip(frames, numbers, strict=True) if n is not None and n.number in labelled]
        if frames:
            lists[f"{split}.lst"] = format_frames(frames)
    unlabelled = [Frame(path.relative_to(root).as_posix()) for path in _images_of_split(root, "test")]
    if unlabelled:
        lists["test.lst"] = format_frames(unlabelled)
    if clips == "sequences":
        return lists | {"val_clips.lst": format_clips(_sequences(root))}
    if not lists:
        raise UserError(
            f"{root}: no frame in {FRAMES} has a label in {LABELS}, "
            f"{LABELS}/<split>/<city>/<city>_<sequence>_<frame>{LABEL_TAIL}.png"
        )
    return lists | _official_lists(root)


def official_clips(root: str | Path, which: OfficialClips) -> list[Clip]:
    """The clips of the published protocol, 30 frames around each annotated validation frame.

    Frames are named in ``leftImg8bit_sequence``, unless the annotated one is found in ``leftImg8bit`` only; the
    annotated frame has its label if that file exists. The frames need not be there yet.

    Raises:
        UserError: the clips are not as many, or not as long, as published: the lists of frame ids were changed.
    """
    root, clips = Path(root), []
    for frame in _official_ids(which):
        city = frame.partition("_")[0]
        image = _image_of(root, "val", city, frame) or root / SEQUENCES / "val" / city / frame_name(frame)
        label = root / LABELS / "val" / city / label_name(frame)
        annotated = Frame(_relative(image, root), _relative(label, root) if label.is_file() else None)
        clips.append(_snippet(annotated))
    found = len(clips), sum(map(len, clips)), sum(len(clip) - 1 for clip in clips)
    if found != PUBLISHED_CLIPS[which]:
        counts = "{} clips, {} frames, {} pairs"
        raise UserError(
            f"TEST.cityscapes {which} is {counts.format(*PUBLISHED_CLIPS[which])}; data/lists/cityscapes gives "
            f"{counts.format(*found)}"
        )
    return clips


def _official_ids(which: OfficialClips) -> list[str]:
    return (SPLITS / _ID_LISTS[which]).read_text(encoding="utf-8").split()


def _official_lists(root: Path) -> Lists:
    """The clip lists of the published protocol, each only if all of its annotated frames are there."""
    lists, annotated = {}, {frame_id(frame.image): frame for frame in _labelled_frames(root, "val")}
    for name, which in _CLIP_LISTS.items():
        ids = _official_ids(which)
        found = [annotated[frame] for frame in ids if frame in annotated]
        if len(found) == len(ids):
            clips = [_snippet(frame) for frame in found]
            lists[name] = format_clips(clips)
            _log_missing(name, clips, root)
        else:
            logger.warning(
                "%s is left out: %d of its %d clips are here, by their annotated frames in %s/val or %s/val and their "
                "labels in %s/val",
                *(name, len(found), len(ids), SEQUENCES, FRAMES, LABELS),
            )
    return lists


def _log_missing(name: str, clips: list[Clip], root: Path) -> None:
    """Say how many frames of a list of clips are not on disk: without the video, only the annotated ones are."""
    images = [frame.image for clip in clips for frame in clip]
    missing = [image for image in images if not (root / image).is_file()]
    if missing:
        logger.warning(
            "%s names %d frames, of which %d are not here, the first is %s: the clips need %s/val "
            "(leftImg8bit_sequence_trainvaltest.zip); without it, frames can be trained and tested, but not scored as "
            "clips",
            *(name, len(images), len(missing), missing[0], SEQUENCES),
        )


def _labelled_frames(root: Path, split: str) -> list[Frame]:
    """Frames of a split with a label in gtFine, sorted."""
    frames, alone = [], 0
    labels = (path for city in subfolders(root / LABELS / split) for path in sorted(city.glob(f"*{LABEL_TAIL}.png")))
    for label in labels:
        check_name(label)
        image = _image_of(root, split, label.parent.name, label.stem.removesuffix(LABEL_TAIL))
        if image is None:
            alone += 1
        else:
            frames.append(Frame(_relative(image, root), _relative(label, root)))
    if alone:
        logger.warning("%s: %d labels have no frame here and are left out", split, alone)
    return frames


def _image_of(root: Path, split: str, city: str, frame: str) -> Path | None:
    """The file of a frame; the one in the video folder if there is one, because its neighbours lie there."""
    names = [f"{frame}{FRAME_TAIL}{suffix}" for suffix in SUFFIXES_ON_DISK]
    files = (root / folder / split / city / name for folder in _FOLDERS for name in names)
    return next((file for file in files if file.is_file()), None)


def _images_of_split(root: Path, split: str) -> list[Path]:
    return [path for city in subfolders(root / FRAMES / split) for path in frames_in(city)]


def _snippet(annotated: Frame) -> Clip:
    """The 30 frames around an annotated one. They need not be on disk: the reader of the list checks that."""
    offsets = range(-CLIP_BEFORE, CLIP_AFTER + 1)
    paths = [neighbour(Path(annotated.image), offset, layout=CITYSCAPES) for offset in offsets]
    return [
        Frame(path.as_posix(), annotated.label if offset == 0 else None)
        for offset, path in zip(offsets, paths, strict=True)
        if path is not None
    ]


def _sequences(root: Path) -> list[Clip]:
    """Every run of consecutive validation frames."""
    labels = {frame.image: frame.label for frame in _labelled_frames(root, "val")}
    images = [_relative(path, root) for path in _images_of_split(root, "val")]
    return group_clips([Frame(image, labels.get(image)) for image in images], layout=CITYSCAPES)


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


CITYSCAPES = Layout(
    name="cityscapes",
    description="""leftImg8bit, gtFine and, for the clips, leftImg8bit_sequence, as in the official archives;
writes train.lst, val.lst (frames with a label), test.lst (frames for the test server), val_clips.lst (the 500
validation snippets of 30 frames), val_clips_sampled.lst (the 108 snippets that published numbers come from)""",
    # {city}_{sequence}_{frame}_leftImg8bit; the city's name may hold hyphens
    frame_name=re.compile(rf"^(?P<head>.+_\d+_)(?P<number>\d+)(?P<tail>{FRAME_TAIL})$"),
    make_lists=cityscapes_lists,
    label_ids=LABEL_IDS,
)
