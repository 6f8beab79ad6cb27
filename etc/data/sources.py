"""Which clips are scored: those of a list, of a folder or video that somebody gives, or of the published protocol."""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from etc import distributed
from etc.config import is_given
from etc.config.schema import Settings
from etc.data.cityscapes import official_clips
from etc.data.frame_names import (
    IMAGE_SUFFIXES,
    folder_key,
    frame_folders,
    frames_in,
    images_in,
    warn_of_single_frames,
)
from etc.data.images import write_png
from etc.data.label_folder import with_labels
from etc.data.layouts import layout_named
from etc.data.lists import Clip, Frame, check_files, read_clips, read_frames
from etc.data.masks import split_masks
from etc.data.synthetic import prepare
from etc.data.video import LIST_SUFFIXES, listed_videos, open_source, videos_below
from etc.errors import UserError
from utils.files import new_folder, regular_file, write_text
from utils.identity import identity_of
from utils.locks import exclusive

logger = logging.getLogger(__name__)

_UNPACKED = "unpacked.json"  # beside the frames of a video: its frame rate, their sizes
_MEASURED = 8  # frames that the estimate for a video is measured on
_SLOWEST, _FASTEST = 0.01, 1000  # frames per second, as of TEST.fps: what a damaged file states may be anything
OWN_FRAMES = ["DATA.synthetic=false", "FLOW.name=dis"]  # instead of the default world, which comes with its flow
NO_LIST = "none"  # DATA.val_list, DATA.clip_list: a training is validated without


def clips_of_frames(settings: Settings, frames: str, *, given_as: str = "TEST.frames") -> list[Clip]:
    """The clips of ``TEST.frames``: a folder of frames, folders of frames in it, a video, or several videos.

    Several videos are those of a folder that holds no frames, or of a list file with one video or folder per line,
    relative to the list. Paths are absolute. A video is unpacked once, into PNGs under
    ``<FLOW.cache>/frames/<its name>-<hash>``, and again where these are no longer the frames that were unpacked. The
    name of a frame begins with that of its video or folder, with a hash.

    Args:
        settings: section ``TEST``.
        frames: its ``frames``.
        given_as: what messages call them.

    Raises:
        UserError: nothing there, no folder with two frames, or a file that is no video.
    """
    where = Path(frames)
    if not where.exists():
        raise UserError(f"{given_as} {where} does not exist: expected a folder of frames or a video file")
    if where.is_dir() or where.suffix.lower() not in LIST_SUFFIXES:
        clips = _clips_in(settings, where, given_as)
    else:
        listed = listed_videos(where)
        if listed is None:
            raise UserError(f"{given_as} {where} is a list: give it as DATA.clip_list (or list videos)")
        clips = [clip for source in listed for clip in _clips_in(settings, source, given_as)]
    # A clip that is there twice, as a copy of a video or by two lines, would count twice in every figure.
    return list({clip[0].image: clip for clip in clips}.values())


def check_one_source(
    settings: Settings, overrides: Sequence[str], *, keys: Sequence[str] = ("frames", "cityscapes")
) -> None:
    """Refuse a ``DATA.clip_list`` on the command line that another setting there or in the file would make unused.

    Args:
        settings: the settings.
        overrides: as :func:`etc.config.load_settings` takes them.
        keys: the other settings, keys of ``TEST``.

    Raises:
        UserError: which two settings say what the frames are.
    """
    if not is_given("DATA.clip_list", overrides):
        return
    for key in keys:
        value = getattr(settings.TEST, key)
        if value is not None:
            raise UserError(
                f"TEST.{key} {value} and DATA.clip_list {settings.DATA.clip_list} both say which frames are read, and "
                "the list would not be used: give one of them"
            )


def _clips_in(settings: Settings, where: Path, given_as: str) -> list[Clip]:
    """The clips of one video, of a folder of frames, or of a folder of videos."""
    if not where.is_dir():
        regular_file(where)
        if where.suffix.lower() in IMAGE_SUFFIXES:
            raise UserError(f"{given_as} {where} is one image: temporal consistency needs a folder or a video")
        # Beside the flow of these frames: whatever is scored on the video later, elsewhere, finds both.
        video, where = where, _unpacked(where, Path(settings.FLOW.cache) / "frames")
        if len(frames_in(where)) < 2:
            raise UserError(f"{video} has one frame, temporal consistency needs two: leave it out")
        # The folder's name holds the hash of the video.
        where = where.resolve()
        return _clips_of_folders({where: frames_in(where)}, where.parent, prefix="", given_as=given_as)
    test = settings.TEST
    outputs = (test.predictions, test.labels, test.save_folder, settings.FLOW.cache)
    own = {Path(path).resolve() for path in outputs if path}

    def leave_out(folder: Path) -> bool:
        # Predictions, labels and unpacked videos that lie below the frames are no frames.
        return folder.resolve() in own

    root = where.resolve()
    folders = frame_folders(root, leave_out=leave_out)
    videos = videos_below(root, leave_out=leave_out)
    if videos and not any(len(images) > 1 for images in folders.values()):  # one image beside videos is a poster
        return [clip for video in videos for clip in _clips_in(settings, video, given_as)]
    if videos:
        logger.warning("%s %s holds frames, so its %d videos are left out", given_as, where, len(videos))
    return _clips_of_folders(folders, root, prefix=f"{folder_key(root / 'frame')}/", given_as=given_as)


def _clips_of_folders(folders: dict[Path, list[Path]], root: Path, *, prefix: str, given_as: str) -> list[Clip]:
    """A clip per folder of two frames or more.

    Args:
        folders: folder -> its frames.
        root: names of frames are paths below it.
        prefix: what tells ``root`` from others, before every name.
        given_as: as of :func:`clips_of_frames`.
    """
    clips = [
        [Frame(str(path), name=prefix + path.relative_to(root).with_suffix("").as_posix()) for path in images]
        for images in folders.values()
        if len(images) > 1
    ]
    if not clips:
        raise UserError(f"{given_as} {root} holds no folder with two images or more")
    warn_of_single_frames(folders)
    return clips


def _unpacked(video: Path, folder: Path) -> Path:
    """The frames of a video as files: flow is kept by frame, and a second run reads what the first one decoded.

    The name of their folder holds the hash of the video, because videos share names.
    """
    try:
        os.fsencode(video.name).decode("utf-8")
    except UnicodeDecodeError:
        raise UserError(f"the name of the video {str(video)!a} is not UTF-8: rename it") from None
    frames = folder / f"{_without_spaces(video.stem)}-{identity_of(video).sha256[:12]}"
    if distributed.rank() == 0:
        # Of two runs that unpack one video, the second waits and reads what the first one decoded.
        with exclusive(folder, frames.name, wait=True):
            if frames.is_dir() and not _is_as_unpacked(frames):
                logger.warning("%s does not hold what was unpacked from %s: it is unpacked anew", frames, video)
                shutil.rmtree(frames)
            if not frames.is_dir():
                _unpack(video, frames)
    distributed.barrier()
    return frames


def _unpack(video: Path, folder: Path) -> None:
    logger.info("unpacking %s into %s (once)", video, folder)
    start = time.perf_counter()
    with new_folder(folder) as building:
        source = open_source(str(video), data_root=".")
        for number, frame in enumerate(source.frames, start=1):
            write_png(building / f"{_without_spaces(frame.name)}.png", frame.rgb, compression=1)
            if number == _MEASURED and source.total is not None and source.total > number:
                share = source.total / number
                size = tqdm.format_sizeof(share * sum(_sizes(building).values()), "B", 1000)
                left = tqdm.format_interval((share - 1) * (time.perf_counter() - start))
                logger.info("%d frames: about %s of disk, %s (minutes:seconds) to go", source.total, size, left)
        write_text(building / _UNPACKED, json.dumps({"fps": source.fps, "sizes": _sizes(building)}) + "\n")


def _without_spaces(name: str) -> str:
    """A name that lists of frames take."""
    return "_".join(name.split())


def _is_as_unpacked(folder: Path) -> bool:
    """Whether the frames in a folder are those that :func:`_unpack` wrote, as far as names and sizes tell."""
    return bool(_noted(folder).get("sizes") == _sizes(folder))


def _noted(folder: Path) -> dict[str, Any]:
    """What :func:`_unpack` noted about a folder; empty for any other folder."""
    try:
        noted = json.loads(regular_file(folder / _UNPACKED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def frame_rate(clip: Clip, settings: Settings) -> float | None:
    """Frames per second of the video that the frames of a clip were unpacked from; ``None`` for other frames."""
    fps = _noted((Path(settings.DATA.data_root) / clip[0].image).parent).get("fps")
    return float(fps) if isinstance(fps, int | float) and _SLOWEST <= fps <= _FASTEST else None


def _sizes(folder: Path) -> dict[str, int]:
    """Name of each image in a folder -> its size in bytes."""
    return {path.name: path.stat().st_size for path in images_in(folder)}


def labelled_frames(settings: Settings, path: str | None = None) -> list[Frame]:
    """The frames of a list (default ``DATA.val_list``), each with a label, all files checked.

    Raises:
        UserError: a missing list or file, or a frame without label.
    """
    path = path or settings.DATA.val_list
    if path == NO_LIST:
        raise UserError("DATA.val_list is none: expected a list of labelled frames, here or in TEST.test_list")
    prepare(settings)
    frames = read_frames(path)
    bare = [frame.image for frame in frames if frame.label is None]
    if bare:
        raise UserError(f"{path}: {len(bare)} of {len(frames)} frames have no label, the first is {bare[0]}")
    check_files(frames, settings.DATA.data_root, source=path)
    return frames


def clips_to_score(settings: Settings) -> list[Clip]:
    """The clips of ``TEST.frames``, ``TEST.cityscapes`` or else ``DATA.clip_list``, all files checked.

    With ``TEST.labels`` their labels are those of that folder.

    Raises:
        UserError: a missing list or file, or a clip of one frame; as :func:`etc.data.label_folder.with_labels`.
    """
    labels = settings.TEST.labels
    if labels and not Path(labels).is_dir():  # before a video is unpacked
        raise UserError(f"TEST.labels {labels} is no folder: expected label maps, PNG files named like the frames")
    clips = _listed_clips(settings)
    return with_labels(clips, Path(labels), Path(settings.DATA.data_root)) if labels else clips


def _listed_clips(settings: Settings) -> list[Clip]:
    """:func:`clips_to_score`, with the labels of the lists."""
    data, test = settings.DATA, settings.TEST
    if test.frames:
        return clips_of_frames(settings, test.frames)
    if test.cityscapes:
        clips = official_clips(data.data_root, test.cityscapes)
        check_files((f for clip in clips for f in clip), data.data_root, source=f"TEST.cityscapes {test.cityscapes}")
        return clips
    if data.clip_list == NO_LIST:
        raise UserError("DATA.clip_list is none: expected a list of clips, or frames or a video in TEST.frames")
    prepare(settings)
    clips = read_clips(data.clip_list, layout=layout_named(data.layout), frame_step=data.frame_step)
    check_files((frame for clip in clips for frame in clip), data.data_root, source=data.clip_list)
    _check_masks(clips, data.clip_list, Path(data.data_root))
    return clips


def validation_frames(settings: Settings) -> list[Frame]:
    """The labelled frames that a training is validated on; none where ``DATA.val_list`` is none or holds no label.

    Raises:
        UserError: as :func:`labelled_frames`, also where some of the frames have no label.
    """
    path = settings.DATA.val_list
    if path == NO_LIST:
        return []
    prepare(settings)
    if all(frame.label is None for frame in read_frames(path)):
        return []
    return labelled_frames(settings)


def validation_clips(settings: Settings) -> list[Clip]:
    """The clips that a training is validated on: the first ``TRAIN.val_clips`` (all) of those to score.

    There are none where ``DATA.clip_list`` is none, without ``TEST.frames`` or ``TEST.cityscapes``.

    Raises:
        UserError: as :func:`clips_to_score`.
    """
    test = settings.TEST
    if settings.DATA.clip_list == NO_LIST and not test.frames and not test.cityscapes:
        return []
    return clips_to_score(settings)[: settings.TRAIN.val_clips]


def source_of_clips(settings: Settings) -> str:
    """The setting that names the clips of :func:`clips_to_score`, for messages."""
    test = settings.TEST
    if test.frames:
        return f"TEST.frames {test.frames}"
    return f"TEST.cityscapes {test.cityscapes}" if test.cityscapes else settings.DATA.clip_list


def _check_masks(clips: list[Clip], path: str, data_root: Path) -> None:
    """Refuse a list that names masks as frames, as lists made from whole folders did."""
    for clip in clips:
        by_folder: dict[Path, list[Path]] = {}
        for frame in clip:
            image = data_root / frame.image
            by_folder.setdefault(image.parent, []).append(image)
        masks = [mask for images in by_folder.values() for mask in split_masks(images)[1]]
        if masks:
            raise UserError(
                f"{path}: {len(masks)} of the {len(clip)} frames of the clip of {clip[0].image} seem to be masks of "
                f"the others, the first is {masks[0]}: make the list again with tool/make_lists.py, or take them out"
            )
