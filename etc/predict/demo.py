"""Predictions of a list, a folder, an image, a video file or a camera: colour pictures, overlays and a video."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from itertools import islice
from pathlib import Path

import numpy as np
from tqdm import tqdm

from etc.config import dump_settings
from etc.config.schema import Settings
from etc.data.images import write_png
from etc.data.labels import read_colors
from etc.data.sources import clips_to_score
from etc.data.video import NamedFrame, Source, image_source, open_source
from etc.display.drawing import colorize, overlay
from etc.display.mp4 import Mp4Writer, encode_overlay
from etc.distributed import exclusive_output
from etc.predict.clips import WRITERS, PredictionStats
from etc.predict.predictor import predictor_from
from utils.files import write_text
from utils.threads import TaskQueue


def demonstrate(settings: Settings, *, max_frames: int | None = None) -> PredictionStats:
    """Predict the frames of ``TEST.demo_dir`` (empty: the first clip of ``DATA.clip_list``).

    Writes ``<name>_color.png`` and ``<name>_overlay.png`` into ``TEST.demo_folder``, ``settings.yaml``, and
    ``overlay.mp4`` when there is more than one frame and all have the same size; that of an earlier run is removed.
    Ctrl-C ends a camera.

    Args:
        settings: the settings.
        max_frames: stop after this many frames; ``None``: no limit.

    Raises:
        UserError: nothing at ``TEST.demo_dir``, or something that cannot be read; a checkpoint or palette that does
            not fit; another run that is writing into the folder.
    """
    palette = read_colors(settings.DATA.colors_path, settings.DATA.classes)
    source = _source(settings)
    with closing(source.frames), exclusive_output(settings.TEST.demo_folder):
        return _demonstrate(settings, source, palette, max_frames)


def _source(settings: Settings) -> Source:
    where = settings.TEST.demo_dir
    if where is None:
        clip = clips_to_score(settings)[0]
        return image_source([Path(settings.DATA.data_root) / frame.image for frame in clip])
    return open_source(str(where), data_root=settings.DATA.data_root)


def _demonstrate(settings: Settings, source: Source, palette: np.ndarray, max_frames: int | None) -> PredictionStats:
    predictor = predictor_from(settings)
    folder = Path(settings.TEST.demo_folder)
    # This run may write no video, or may be killed: that of an earlier one must not lie beside the new pictures.
    (folder / "overlay.mp4").unlink(missing_ok=True)
    write_text(folder / "settings.yaml", dump_settings(settings))
    count, shapes = 0, set()
    start = time.perf_counter()
    with ExitStack() as stack:
        video = Mp4Writer(folder / "overlay.mp4", source.fps or settings.TEST.fps)
        stack.callback(video.discard)  # nothing once it is closed
        pictures = stack.enter_context(TaskQueue(workers=WRITERS, pending=2 * WRITERS))
        encoder = stack.enter_context(TaskQueue(workers=1, pending=4))
        total = min((n for n in (source.total, max_frames) if n is not None), default=None)
        frames = stack.enter_context(tqdm(islice(source.frames, max_frames), total=total, desc="demo", unit="frame"))
        try:
            for frame in frames:
                ids = predictor([frame.rgb])[0]
                pictures.put(_write_pictures, folder, frame, ids, palette)
                shapes.add(ids.shape)
                if len(shapes) == 1:
                    encoder.put(encode_overlay, video, frame.rgb, ids, palette)
                count += 1
        except KeyboardInterrupt:
            if source.total is not None:
                raise
        if count > 1 and len(shapes) == 1:
            encoder.put(video.close)
    return PredictionStats(count, 0, predictor.network_seconds, time.perf_counter() - start)


def _write_pictures(folder: Path, frame: NamedFrame, ids: np.ndarray, palette: np.ndarray) -> None:
    write_png(folder / f"{frame.name}_color.png", colorize(ids, palette))
    write_png(folder / f"{frame.name}_overlay.png", overlay(frame.rgb, ids, palette))
