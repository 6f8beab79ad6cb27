"""H.264 video from frames."""

from __future__ import annotations

import logging
from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import cv2
import numpy as np

from etc.display.drawing import overlay
from utils.files import replacing
from utils.threads import cores

logger = logging.getLogger(__name__)

# In order of preference; the last is part of every FFmpeg, but no H.264.
_ENCODERS = ("libx264", "libopenh264", "mpeg4")
_BT709 = 1  # as ISO/IEC 23091-2 numbers the primaries and the transfer function


class Mp4Writer:
    """H.264 video in an mp4 file that appears under its name once it is complete.

    Pictures of odd size are padded by a pixel that repeats the border, as 4:2:0 needs even sides. Where PyAV was
    built without an H.264 encoder, MPEG-4 is written, and a warning says so.

    Use it in a ``with`` block, which closes it, or discards it after an error; or call :meth:`close` or
    :meth:`discard`.

    Args:
        path: the file; folders are made.
        fps: frames per second.
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
        if self._container is None:
            raise ValueError("the video is closed: it takes no more pictures")
        if self._stream is None:
            self._stream = _add_stream(self._container, rgb.shape, self._rate, self._quality)
            self._shape = rgb.shape
        if rgb.shape != self._shape or rgb.dtype != np.uint8:
            raise ValueError(f"expected RGB uint8 {self._shape}, got {rgb.dtype} {rgb.shape}")
        height, width = rgb.shape[:2]
        even: np.ndarray = cv2.copyMakeBorder(rgb, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
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
            if self._stream is None or not self._count:
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


def encode_overlay(video: Mp4Writer, rgb: np.ndarray, ids: np.ndarray, palette: np.ndarray) -> None:
    """Add a frame with the colours of its classes to a video; arguments as :func:`etc.display.drawing.overlay`."""
    video.write(overlay(rgb, ids, palette))


def _add_stream(
    container: av.container.OutputContainer, shape: tuple[int, ...], rate: Fraction, quality: dict[str, str]
) -> av.VideoStream:
    """A stream for pictures of a shape ``[H, W, 3]``, with the best encoder that PyAV has."""
    codec = next(name for name in _ENCODERS if name in av.codecs_available)
    if codec == "mpeg4":
        logger.warning("PyAV has no H.264 encoder (libx264) here: writing MPEG-4, which browsers do not play")
    # Fast enough to keep up with the network; the short look-ahead halves the memory, and the files of such
    # pictures grow by 4%.
    options = {"preset": "veryfast", "rc-lookahead": "3", "bf": "0", **quality} if codec == "libx264" else {}
    stream = cast(av.VideoStream, container.add_stream(codec, rate=rate, options=options))
    stream.width = shape[1] + shape[1] % 2
    stream.height = shape[0] + shape[0] % 2
    stream.pix_fmt = "yuv420p"
    # By default there are one and a half threads per core: on a big machine they hold hundreds of frames.
    stream.codec_context.thread_count = min(4, cores())
    stream.codec_context.colorspace = av.video.reformatter.Colorspace.ITU709
    # Browsers believe the matrix only where all three are stated; otherwise they take small videos for BT.601.
    stream.codec_context.color_primaries = stream.codec_context.color_trc = _BT709
    return stream
