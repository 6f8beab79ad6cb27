"""Reading frames from lists, folders, images, videos and cameras; writing H.264 video."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import cv2
import numpy as np

from etc.config import UserError
from etc.data.frame_names import IMAGE_SUFFIXES, images_in
from etc.data.images import read_image
from etc.data.lists import Frame, check_files, prediction_names, read_frames
from utils.files import replacing
from utils.threads import ordered_map, prefetch

logger = logging.getLogger(__name__)

LIST_SUFFIXES = (".lst", ".txt")
DECODERS = min(4, os.cpu_count() or 1)
AHEAD = 4  # frames decoded before they are asked for

# In order of preference; the last is part of every FFmpeg, but no H.264.
_ENCODERS = ("libx264", "libopenh264", "mpeg4")
_BT709 = 1  # as ISO/IEC 23091-2 numbers the primaries and the transfer function


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
    """

    frames: Iterator[NamedFrame]
    total: int | None
    fps: float | None


def open_source(where: str, *, data_root: str | Path) -> Source:
    """Open a list file, a folder of images, an image, a video file or a camera.

    Args:
        where: a path, or the index of a camera. ``.lst`` and ``.txt`` are list files, image suffixes are images,
            and every other file is a video.
        data_root: folder that a list file's frames are relative to.

    Raises:
        UserError: nothing there, missing frames, a folder without image, a file that is no video, no camera. A frame
            that cannot be decoded raises when its turn comes.
    """
    path = Path(where)
    if path.is_dir():
        return image_source(_images_of(path))
    if not path.exists():
        if where.isdecimal():
            return _camera_source(int(where))
        raise UserError(f"{where} does not exist: expected a list, a folder, an image, a video or a camera index")
    if path.suffix.lower() in LIST_SUFFIXES:
        frames = [Frame(frame.image) for frame in read_frames(path)]
        check_files(frames, data_root, source=where)
        return image_source([Path(data_root) / frame.image for frame in frames])
    if path.suffix.lower() in IMAGE_SUFFIXES:
        return image_source([path])
    return _video_source(path)


def image_source(paths: list[Path]) -> Source:
    """Frames from image files.

    Raises:
        UserError: two files would have the same name (see :func:`etc.data.lists.prediction_names`).
    """
    names = prediction_names([Frame(str(path)) for path in paths])
    images = ordered_map(read_image, paths, workers=DECODERS, ahead=AHEAD)
    return Source(_named(names, images), len(paths), None)


def _named(names: list[str], images) -> Iterator[NamedFrame]:
    with closing(images):
        for name, image in zip(names, images, strict=True):
            yield NamedFrame(name, image)


def _images_of(folder: Path) -> list[Path]:
    paths = images_in(folder)
    if not paths:
        raise UserError(f"{folder} holds no image ({', '.join(IMAGE_SUFFIXES)})")
    return paths


def _video_source(path: Path) -> Source:
    try:
        container = av.open(str(path))
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{path} is not a video that can be read: {error.strerror}") from None
    if not container.streams.video:
        container.close()
        raise UserError(f"{path} has no video stream")
    stream = container.streams.video[0]
    fps = float(stream.average_rate) if stream.average_rate else None
    return Source(prefetch(_video_frames(container, path), ahead=AHEAD), stream.frames or None, fps)


def _video_frames(container, path: Path) -> Iterator[NamedFrame]:
    count = 0
    with container:
        container.streams.video[0].thread_type = "AUTO"
        try:
            for frame in container.decode(video=0):
                # Phones store upright video lying down, with the angle beside it.
                rgb = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                yield NamedFrame(f"{path.stem}_{count:06d}", np.ascontiguousarray(rgb))
                count += 1
        except av.FFmpegError as error:
            raise UserError(f"{path} cannot be decoded after frame {count}: {error.strerror}") from None
    if not count:
        raise UserError(f"{path} holds no frame that can be decoded")


def _camera_source(index: int) -> Source:
    level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    camera = cv2.VideoCapture(index)
    cv2.utils.logging.setLogLevel(level)
    if not camera.isOpened():
        raise UserError(f"there is no camera {index}, or it is in use")
    fps = camera.get(cv2.CAP_PROP_FPS)
    return Source(prefetch(_camera_frames(camera, index), ahead=1), None, fps if fps > 0 else None)


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


class Mp4Writer:
    """H.264 video in an mp4 file that appears under its name once it is complete.

    Pictures of odd size are padded by a pixel that repeats the border, as 4:2:0 needs even sides. Where PyAV was
    built without an H.264 encoder, MPEG-4 is written, and a warning says so.

    Use it in a ``with`` block, which closes it, or discards it after an error; or call :meth:`close` or
    :meth:`discard`.

    Args:
        path: the file; folders are made.
        fps: frames a second.
        crf: quality of H.264, 0 (lossless) to 51; 20 keeps the borders of the classes sharp.
        gop: at most this many pictures from one key frame to the next; few make seeking quick. ``None``: many.
    """

    def __init__(self, path: str | Path, fps: float, *, crf: int = 20, gop: int | None = None) -> None:
        self._quality = {"crf": str(crf)} | ({"g": str(gop)} if gop is not None else {})
        self._file = ExitStack()
        temporary = self._file.enter_context(replacing(path))
        self._container: av.container.OutputContainer | None = av.open(str(temporary), "w", format="mp4")
        self._stream: av.VideoStream | None = None
        self._rate = Fraction(fps).limit_denominator(1001)  # 30000/1001 is the finest rate in use
        self._shape: tuple[int, ...] = ()
        self._count = 0

    def write(self, rgb: np.ndarray) -> None:
        """Add a picture, RGB uint8 ``[H, W, 3]``.

        Raises:
            ValueError: another size than the picture before, or another dtype.
        """
        if not self._shape:
            self._start(rgb)
        if rgb.shape != self._shape or rgb.dtype != np.uint8:
            raise ValueError(f"expected RGB uint8 {self._shape}, got {rgb.dtype} {rgb.shape}")
        height, width = rgb.shape[:2]
        even = cv2.copyMakeBorder(rgb, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
        frame = av.VideoFrame.from_ndarray(even, "rgb24").reformat(format="yuv420p", dst_colorspace="ITU709")
        frame.pts, frame.time_base = self._count, 1 / self._rate
        self._count += 1
        self._container.mux(self._stream.encode(frame))

    def close(self) -> None:
        """Finish the file and put it in its place; nothing after the first call, or after :meth:`discard`.

        Raises:
            ValueError: no picture was written.
        """
        if self._container is None:
            return
        try:
            if not self._count:
                raise ValueError("a video needs at least one picture")
            self._container.mux(self._stream.encode(None))
            self._container.close()
        except BaseException:
            self.discard()
            raise
        # The encoder holds dozens of frames as long as somebody holds the container.
        self._container = self._stream = None
        self._file.close()

    def discard(self) -> None:
        """Drop what was written; whatever is at ``path`` stays."""
        if self._container is None:
            return
        dropped = RuntimeError("discarded")
        # Telling the file that it failed keeps it from replacing what is there.
        self._file.__exit__(type(dropped), dropped, None)
        with suppress(av.FFmpegError, OSError):  # a full disk: the error that led here is the one to hear of
            self._container.close()
        self._container = self._stream = None

    def __enter__(self) -> Mp4Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def _start(self, rgb: np.ndarray) -> None:
        codec = next(name for name in _ENCODERS if name in av.codecs_available)
        if codec == "mpeg4":
            logger.warning("PyAV has no H.264 encoder (libx264) here: writing MPEG-4, which browsers do not play")
        # Fast enough to keep up with the network; the short look-ahead halves the memory, and the files of such
        # pictures grow by 4%.
        options = {"preset": "veryfast", "rc-lookahead": "3", "bf": "0", **self._quality} if codec == "libx264" else {}
        self._stream = self._container.add_stream(codec, rate=self._rate, options=options)
        self._stream.width = rgb.shape[1] + rgb.shape[1] % 2
        self._stream.height = rgb.shape[0] + rgb.shape[0] % 2
        self._stream.pix_fmt = "yuv420p"
        # One thread by default a core and a half: on a big machine they hold hundreds of frames.
        self._stream.codec_context.thread_count = min(4, os.cpu_count() or 1)
        self._stream.codec_context.colorspace = av.video.reformatter.Colorspace.ITU709
        # Browsers believe the matrix only where all three are stated; otherwise they take small videos for BT.601.
        self._stream.codec_context.color_primaries = self._stream.codec_context.color_trc = _BT709
        self._shape = rgb.shape
