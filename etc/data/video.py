"""Reading frames from lists, folders, images, videos and cameras."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np

from etc.data.folders import folders_below
from etc.data.frame_names import IMAGE_SUFFIXES, folder_key, frame_folders, frames_in, images_in
from etc.data.frame_values import check_frames
from etc.data.images import read_image
from etc.data.lists import Frame, check_files, prediction_names, read_frames
from etc.errors import UserError
from utils.files import regular_file
from utils.threads import cores, ordered_map, prefetch

logger = logging.getLogger(__name__)

LIST_SUFFIXES = (".lst", ".txt")
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".3gp"),
    *(".ogv", ".y4m", ".h264", ".h265", ".hevc"),
)
DECODERS = min(4, cores())
AHEAD = DECODERS  # frames decoded before they are asked for: more would only fill the memory
REORDERED = 16  # frames that may be stored in another order than they are shown in, at most (H.264, H.265)
CLOCK_TICKS = 0.0025  # seconds: Matroska rounds times to milliseconds


class NamedFrame(NamedTuple):
    """A frame, RGB uint8 ``[H, W, 3]``, and a name without suffix to call its files by."""

    name: str
    rgb: np.ndarray


class Source(NamedTuple):
    """Where frames come from.

    Attributes:
        frames: the frames, decoded ahead in background threads; close it to end early.
        total: number of frames, where it is known.
        fps: frame rate, where there is one.
        is_endless: whether somebody ends it, as a camera.
    """

    frames: Generator[NamedFrame, None, None]
    total: int | None
    fps: float | None
    is_endless: bool = False


def several_sources(where: str) -> dict[str, Path]:
    """The videos and folders of frames that a list of videos or a folder stands for.

    Args:
        where: a list file with one video or folder per line, relative to the list; or a folder that holds no image
            itself, or one beside videos, but folders of frames or, where there are none, videos.

    Returns:
        Name -> video or folder: the path below ``where``, without the suffix of videos. Empty where ``where`` is
        one source for :func:`open_source`, or nothing.

    Raises:
        UserError: a listed video is missing, or two have one name; or as :func:`etc.data.frame_names.frame_folders`.
    """
    path = Path(where)
    if path.is_dir():
        images, videos = images_in(path), videos_below(path)
        if len(images) > 1 or (images and not videos):
            return {}
        folders = [folder for folder in frame_folders(path) if folder != path]  # one image beside videos is a poster
        found, root = folders or videos, path
    elif path.suffix.lower() in LIST_SUFFIXES and path.exists():
        found, root = listed_videos(path) or [], path.parent
    else:
        return {}
    named: dict[str, Path] = {}
    for source in found:
        inside = source.is_relative_to(root) and ".." not in source.relative_to(root).parts
        place = source.relative_to(root).parent.as_posix() if inside else folder_key(source)
        name = (Path(place) / (source.name if source.is_dir() else source.stem)).as_posix()
        if named.setdefault(name, source) != source:
            raise UserError(f"{where}: {named[name]} and {source} would write to one folder: rename one of them")
    return named


def listed_videos(path: Path) -> list[Path] | None:
    """The videos and folders that a list file names, one per line; ``None``: it is no list of videos.

    Raises:
        UserError: the list cannot be read, or some of the videos are missing.
    """
    try:
        lines = [line.strip() for line in regular_file(path).read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the list {path}: {getattr(error, 'strerror', 'not a text file')}") from error
    videos = [path.parent / line for line in lines if line and not line.startswith("#")]
    if not any(video.is_dir() or video.suffix.lower() in VIDEO_SUFFIXES for video in videos):
        return None
    missing = [video for video in videos if not video.exists()]
    if missing:
        raise UserError(f"{path}: {len(missing)} of {len(videos)} videos are missing, the first is {missing[0]}")
    return list(dict.fromkeys(videos))


def videos_below(folder: Path, *, leave_out: Callable[[Path], bool] = lambda folder: False) -> list[Path]:
    """The video files in a folder and below, sorted; hidden ones are left out."""
    folders = folders_below(folder, leave_out=lambda path: path.name.startswith(".") or leave_out(path))
    inside = (path for place in folders for path in place.iterdir())
    return sorted(p for p in inside if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file() and p.name[0] != ".")


def open_source(where: str, *, data_root: str | Path) -> Source:
    """Open a list file, a folder of images, an image, a video file or a camera.

    Args:
        where: a path, or the index of a camera. ``.lst`` and ``.txt`` are list files, image suffixes are images,
            and every other file is a video.
        data_root: folder that a list file's frames are relative to.

    Raises:
        UserError: nothing there, missing frames, a folder without image, a file that is no video, no camera. A frame
            that cannot be decoded raises when its turn comes, and a video with fewer frames than it declares raises
            after its last one.
    """
    path = Path(where)
    if path.is_dir():
        images = _images_of(path)
        return image_source(images, [image.stem for image in images])
    if not path.exists():
        if where.isdecimal():
            return _camera_source(int(where))
        raise UserError(f"{where} does not exist: expected a list, a folder, an image, a video or a camera index")
    if path.suffix.lower() in LIST_SUFFIXES:
        frames = [Frame(frame.image) for frame in read_frames(path)]
        check_files(frames, data_root, source=where)
        return listed_source(frames, data_root)
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return image_source([path], [path.stem])
    return _video_source(path)


def listed_source(frames: list[Frame], data_root: str | Path) -> Source:
    """The frames of a list.

    Raises:
        UserError: two would have the same name (see :func:`etc.data.lists.prediction_names`).
    """
    return image_source([Path(data_root) / frame.image for frame in frames], prediction_names(frames, data_root))


def image_source(paths: list[Path], names: list[str]) -> Source:
    """Frames from image files, each with what to call it.

    Raises:
        UserError: as :func:`etc.data.frame_values.check_frames`.
    """
    check_frames(paths)
    images = ordered_map(read_image, paths, workers=DECODERS, ahead=AHEAD)
    return Source(_named(names, images), len(paths), None)


def _named(names: list[str], images) -> Generator[NamedFrame, None, None]:
    with closing(images):
        for name, image in zip(names, images, strict=True):
            yield NamedFrame(name, image)


def _images_of(folder: Path) -> list[Path]:
    paths = frames_in(folder)
    if not paths:
        raise UserError(f"{folder} holds no image ({', '.join(IMAGE_SUFFIXES)})")
    return paths


def _video_source(path: Path) -> Source:
    try:
        # Players of all times have written titles in other encodings; nothing reads them here.
        container = av.open(os.path.abspath(regular_file(path)), metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{path} is not a video that can be read: {error.strerror}") from error
    if not container.streams.video:
        container.close()
        raise UserError(f"{path} has no video stream")
    stream = container.streams.video[0]
    fps = float(stream.average_rate) if stream.average_rate else None
    return Source(prefetch(_video_frames(container, path), ahead=AHEAD), stream.frames or None, fps)


def _video_frames(container, path: Path) -> Iterator[NamedFrame]:
    count, times = 0, []
    with container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        try:
            for frame in container.decode(video=0):
                # Phones store upright video lying down, with the angle beside it.
                rgb = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                yield NamedFrame(f"{path.stem}_{count:06d}", np.ascontiguousarray(rgb))
                if frame.time is not None:
                    times.append(frame.time)
                count += 1
            if stream.frames:
                lacking = _lacking_frames(path, stream, count, times)
            else:
                lacking = _lacking_time(container, stream, times)
        except av.FFmpegError as error:
            declared = f" of the {stream.frames} that it declares" if stream.frames else ""
            raise UserError(f"{path} cannot be decoded after frame {count}{declared}: {error.strerror}") from error
    if lacking:
        raise UserError(f"{path} is cut off or damaged: {lacking}; copy or download it again")
    if not count:
        raise UserError(f"{path} holds no frame that can be decoded")


def _lacking_frames(path: Path, stream, count: int, times: list[float]) -> str | None:
    """What a video lacks of the number of frames that its container declares; ``None``: nothing.

    Args:
        path: the video.
        stream: its video stream.
        count: number of decoded frames.
        times: when they are shown, in seconds.
    """
    if count >= stream.frames:
        return None
    # A video that was trimmed without encoding it again declares all its frames, and an edit list hides some of them.
    with av.open(os.path.abspath(path), options={"ignore_editlist": "1"}, metadata_errors="replace") as container:
        stored = sum(packet.size > 0 and not packet.is_corrupt for packet in container.demux(video=0))
    # AVI alone counts frames that were dropped in recording, of which it stores only the time.
    is_avi, intervals = stream.container.format.name == "avi", np.diff(times)
    seconds = stream.frames / float(stream.average_rate or 1)
    dropped = is_avi and len(intervals) and times[-1] - times[0] >= seconds - 2 * intervals.max()
    if stored < stream.frames and not dropped:
        return f"the file declares {stream.frames} frames, {count} can be decoded"
    logger.warning("%s declares %d frames and shows %d: the others are hidden, or damaged", path, stream.frames, count)
    return None


def _lacking_time(container, stream, times: list[float]) -> str | None:
    """What a Matroska or WebM video, which declares no number of frames, lacks of its duration; ``None``: nothing.

    Where the frame rate varies, the file need not say how long the last frame is shown: up to twice the longest time
    between two frames may be lacking. Other containers without a number of frames (MPEG-TS) are accepted as they are.
    """
    declared, intervals = _declared_seconds(container, stream), np.diff(times)
    if declared is None or not len(intervals):
        return None
    rate = float(stream.average_rate or 0)
    # Not by the last ones: in a cut file, frames that others refer to are stored before those shown earlier.
    steady = rate > 0 and len(intervals) > REORDERED and np.ptp(intervals[:-REORDERED]) < CLOCK_TICKS
    # The duration is counted from time 0, where a trimmed video need not start.
    expected = round((declared - times[0]) * rate)
    if steady and len(times) < expected - 1:
        return f"the file declares {expected} frames ({declared:.2f} s), {len(times)} can be decoded"
    end = times[-1] + intervals.max()
    if end < declared - 2 * intervals.max():
        return f"the file declares {declared:.2f} s, the {len(times)} frames that can be decoded end at {end:.2f} s"
    return None


def _declared_seconds(container, stream) -> float | None:
    """The duration in the head of the file; elsewhere FFmpeg estimates one from what is there, so a cut goes unseen."""
    if "matroska" not in container.format.name:
        return None
    tag = re.fullmatch(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if tag:
        return 3600 * int(tag[1]) + 60 * int(tag[2]) + float(tag[3])
    # The container lasts as long as its longest stream, which may be the sound.
    return container.duration / av.time_base if container.duration and len(container.streams) == 1 else None


def _camera_source(index: int) -> Source:
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    camera = cv2.VideoCapture(index)
    cv2.utils.logging.setLogLevel(level)
    if not camera.isOpened():
        raise UserError(f"there is no camera {index}, or it is in use")
    fps = camera.get(cv2.CAP_PROP_FPS)
    return Source(prefetch(_camera_frames(camera, index), ahead=1), None, fps if fps > 0 else None, is_endless=True)


def _camera_frames(camera: cv2.VideoCapture, index: int) -> Iterator[NamedFrame]:
    count = 0
    try:
        while True:
            done, bgr = camera.read()
            if not done and not count:
                raise UserError(f"camera {index} gives no frame")
            if not done:
                return
            yield NamedFrame(f"camera{index}_{count:06d}", cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB))
            count += 1
    finally:
        camera.release()
