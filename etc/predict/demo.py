"""Predictions of a list, a folder, an image, a video file or a camera: colour pictures, overlays and a video."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from etc.config import dump_settings
from etc.config.schema import Settings
from etc.data.id_png import encode_ids, write_ids
from etc.data.images import read_png_origin, write_png
from etc.data.labels import read_colors
from etc.data.sources import clips_to_score
from etc.data.video import NamedFrame, Source, listed_source, open_source, several_sources
from etc.display.drawing import overlay
from etc.display.mp4 import Mp4Writer, encode_overlay
from etc.distributed import exclusive_output
from etc.predict.clips import TO_ENCODE, WRITERS, PredictionStats
from etc.predict.predictor import Predictor, predictor_from
from utils.files import write_text
from utils.memory import return_large_blocks
from utils.threads import TaskQueue

_VIDEO = "overlay.mp4"
_ENDINGS = ("_color.png", "_overlay.png", "_ids.png")
_MARK = "demo "  # in each picture, with its path in the folder: neither other pictures nor copies may be removed


def demonstrate(settings: Settings, *, max_frames: int | None = None, ids: bool = False) -> PredictionStats:
    """Predict the frames of ``TEST.demo_dir`` (empty: the first clip of ``DATA.clip_list``).

    Writes ``<name>_color.png`` and ``<name>_overlay.png`` into ``TEST.demo_folder``, ``settings.yaml``, and
    ``overlay.mp4`` when there is more than one frame and all have the same size; what an earlier demonstration wrote
    there is removed. Each of several videos has a folder of its own there. Ctrl-C ends a camera.

    Args:
        settings: the settings.
        max_frames: stop after this many frames of each video; ``None``: no limit.
        ids: write ``<name>_ids.png`` too, the class of each pixel.

    Raises:
        UserError: nothing at ``TEST.demo_dir``, or something that cannot be read; a checkpoint or palette that does
            not fit; another run that is writing into the folder.
    """
    return_large_blocks()
    palette = read_colors(settings.DATA.colors_path, settings.DATA.classes)
    where, folder = settings.TEST.demo_dir, Path(settings.TEST.demo_folder)
    several = {} if where is None else several_sources(str(where))
    # The clip list comes last, because its data may have to be rendered.
    loaded = predictor_from(settings) if where is None else None
    # Of several videos, each is opened when its turn comes; a single one now, before the network is loaded.
    first = None if several else _source(settings)
    with ExitStack() as stack:
        if first is not None:
            stack.enter_context(closing(first.frames))
        stack.enter_context(exclusive_output(folder))
        predictor = loaded or predictor_from(settings)
        _remove_earlier(folder)
        write_text(folder / "settings.yaml", dump_settings(settings))
        writer = _Writer(folder, predictor, palette, settings.TEST.fps, max_frames, ids)
        start = time.perf_counter()
        if first is not None:
            count = writer.run(first, folder)
        else:
            count = 0
            for name, path in several.items():
                source = open_source(str(path), data_root=settings.DATA.data_root)
                with closing(source.frames):
                    count += writer.run(source, folder / name)
    return PredictionStats(count, 0, predictor.network_seconds, time.perf_counter() - start)


def _source(settings: Settings) -> Source:
    where = settings.TEST.demo_dir
    if where is None:
        return listed_source(clips_to_score(settings)[0], settings.DATA.data_root)
    return open_source(str(where), data_root=settings.DATA.data_root)


def _remove_earlier(folder: Path) -> None:
    """Remove the pictures and videos of an earlier demonstration, which may be of other settings or frames.

    Pictures of others stay, and so do copies in other subfolders, and what another demonstration wrote into one.
    """
    for where, subfolders, files in os.walk(folder):
        here = Path(where)
        subfolders[:] = [name for name in subfolders if not (here / name / "settings.yaml").exists()]
        pictures = [here / name for name in files if name.endswith(_ENDINGS)]
        for picture in [path for path in pictures if read_png_origin(path) == _mark(path, folder)]:
            picture.unlink()
            (here / _VIDEO).unlink(missing_ok=True)


def _mark(picture: Path, folder: Path) -> str:
    return _MARK + picture.relative_to(folder).as_posix()


class _Writer(NamedTuple):
    """Predicts the frames of a source and writes what they give.

    The fields are as in :func:`demonstrate`; ``root`` is ``TEST.demo_folder``.
    """

    root: Path
    predictor: Predictor
    palette: np.ndarray
    fps: float
    max_frames: int | None
    with_ids: bool

    def run(self, source: Source, folder: Path) -> int:
        """Predict one source into a folder; returns the number of frames."""
        # This run may write no video, or may be killed: that of an earlier one must not lie beside the new pictures.
        (folder / _VIDEO).unlink(missing_ok=True)
        count, shapes = 0, set()
        with ExitStack() as stack:
            video = Mp4Writer(folder / _VIDEO, source.fps or self.fps)
            stack.callback(video.discard)  # nothing once it is closed
            pictures = stack.enter_context(TaskQueue(workers=WRITERS, pending=2 * WRITERS))
            encoder = stack.enter_context(TaskQueue(workers=1, pending=TO_ENCODE))
            total = min((n for n in (source.total, self.max_frames) if n is not None), default=None)
            limited = islice(source.frames, self.max_frames)
            frames = stack.enter_context(tqdm(limited, total=total, desc="demo", unit="frame"))
            try:
                for frame in frames:
                    ids = self.predictor([frame.rgb])[0]
                    pictures.put(self._write_pictures, folder, frame, ids)
                    shapes.add(ids.shape)
                    if len(shapes) == 1:
                        encoder.put(encode_overlay, video, frame.rgb, ids, self.palette)
                    count += 1
            except KeyboardInterrupt:
                if not source.is_endless:
                    raise
            if count > 1 and len(shapes) == 1:
                encoder.put(video.close)
        return count

    def _write_pictures(self, folder: Path, frame: NamedFrame, ids: np.ndarray) -> None:
        color, mixed, gray = (folder / f"{frame.name}{ending}" for ending in _ENDINGS)
        encoded = encode_ids(ids)
        write_ids(color, encoded, palette=self.palette, origin=_mark(color, self.root))
        write_png(mixed, overlay(frame.rgb, ids, self.palette), origin=_mark(mixed, self.root))
        if self.with_ids:
            write_ids(gray, encoded, origin=_mark(gray, self.root))
