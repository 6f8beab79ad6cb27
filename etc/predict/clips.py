"""Predictions of the clips to be scored, as label maps, colour pictures and videos; finished frames are skipped."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from etc import distributed
from etc.config.schema import Settings
from etc.data.earlier_files import names_in_use
from etc.data.frame_values import check_frames
from etc.data.id_png import encode_ids, write_ids
from etc.data.images import PNG_END, read_image, read_label
from etc.data.labels import read_colors
from etc.data.lists import Clip, prediction_names
from etc.data.origin import Origin, check_frame, digest, read_origin
from etc.data.sources import clips_to_score
from etc.data.video import AHEAD, DECODERS
from etc.display.mp4 import Mp4Writer, encode_overlay
from etc.errors import UserError
from etc.predict.predictor import Predictor, predictor_from
from etc.predict.provenance import claim_output_folder, provenance_of
from utils.files import regular_file, write_text
from utils.memory import return_large_blocks
from utils.threads import TaskQueue, cores, ordered_map

PARTS = ("gray", "color", "mp4")
WRITERS = min(4, cores())
TO_ENCODE = 2  # frames that may wait for the encoder, which takes them one by one


class FramePaths(NamedTuple):
    """The frame and its predictions."""

    image: Path
    gray: Path
    color: Path

    def done(self, made_with: str) -> bool:
        """Whether both predictions are there, to the last byte, and of this frame as it is now.

        Raises:
            UserError: they are of a frame in another place, which has another content.
        """
        origins = [read_origin(file) for file in (self.gray, self.color)]
        for file, origin in zip((self.gray, self.color), origins, strict=True):
            if origin is not None:
                check_frame(file, origin, self.image)
        fits = all(origin is not None and origin.is_of([self.image], made_with) for origin in origins)
        return fits and _ends_as_png(self.gray) and _ends_as_png(self.color)


class ClipPaths(NamedTuple):
    """A clip, its video, and beside that the note that says what the video shows."""

    frames: list[FramePaths]
    video: Path

    @property
    def note(self) -> Path:
        return self.video.with_suffix(".json")

    def shown(self, made_with: str, fps: float) -> dict[str, Any]:
        """What a finished video shows, for its note."""
        names = [files.gray.name for files in self.frames]
        return {"fps": fps, "made_with": made_with, "bytes": self.video.stat().st_size, "frames": names}

    def done(self, made_with: str, fps: float) -> bool:
        """Whether the video is there, to the last byte and of these predictions, and all of them are."""
        try:
            noted = json.loads(regular_file(self.note).read_text(encoding="utf-8"))
            video_is_done = noted == self.shown(made_with, fps)
        except (OSError, ValueError):
            video_is_done = False
        return video_is_done and all(files.done(made_with) for files in self.frames)


class LoadedFrame(NamedTuple):
    """A frame, RGB uint8 ``[H, W, 3]``; its prediction, uint8 ``[H, W]``, where it was there already; and what a
    prediction made now records."""

    files: FramePaths
    rgb: np.ndarray
    ids: np.ndarray | None
    origin: Origin


class PredictionStats(NamedTuple):
    """What a run did: frames predicted and skipped, seconds inside the network and in total."""

    predicted: int
    skipped: int
    network_seconds: float
    seconds: float

    def __str__(self) -> str:
        text = f"{self.predicted} frames predicted"
        if self.skipped:
            text += f", {self.skipped} skipped (already there)"
        if self.predicted:
            network, whole = (self.predicted / max(s, 1e-9) for s in (self.network_seconds, self.seconds))
            text += f"; network alone {network:.2f} FPS, end to end {whole:.2f} FPS"
        return text


def generate(settings: Settings, *, overwrite: bool = False) -> PredictionStats:
    """Predict every frame of ``DATA.clip_list`` into ``<TEST.save_folder>/video``.

    Writes ``gray/<name>.png`` (train ids), ``color/<name>.png``, ``mp4/<first frame>.mp4`` (colours over the frames),
    ``mp4/<first frame>.json``, which says what that shows, ``settings.yaml`` and ``source.json``, which says what the
    predictions were made with. Frames whose files are complete are kept, and so are videos that show what they should.
    Processes started by torchrun share the clips.

    Args:
        settings: the settings.
        overwrite: first remove all predictions in the folder.

    Raises:
        UserError: missing or broken files; two clips that begin with the same frame; a checkpoint or palette that does
            not fit; predictions in the folder that were made with something else, unless ``overwrite``; another run
            that is writing into the folder. What was written by then is complete.
    """
    return_large_blocks()
    palette = read_colors(settings.DATA.colors_path, settings.DATA.classes)
    predictor = predictor_from(settings)
    # Last, because the data may have to be rendered first.
    clips = clips_to_score(settings)
    distributed.warn_of_idle_processes(len(clips), "clips to predict")
    check_frames([Path(settings.DATA.data_root) / frame.image for clip in clips for frame in clip])
    folder = Path(settings.TEST.save_folder) / "video"
    plan = _plan(clips, Path(settings.DATA.data_root), folder, keep_earlier=not overwrite)
    with distributed.exclusive_output(folder):
        note = provenance_of(settings, predictor.weights_sha256)
        claim_output_folder(folder, note, settings, parts=PARTS, overwrite=overwrite)
        made_with = digest(note)
        own = plan[distributed.rank() :: distributed.world_size()]
        rest = [clip for clip in own if not clip.done(made_with, settings.TEST.fps)]
        kept = sum(len(clip.frames) for clip in own) - sum(len(clip.frames) for clip in rest)
        start = time.perf_counter()
        predicted, reread = _predict_clips(rest, predictor, palette, settings, made_with)
        seconds = time.perf_counter() - start
    return PredictionStats(predicted, kept + reread, predictor.network_seconds, seconds)


def _plan(clips: list[Clip], data_root: Path, folder: Path, *, keep_earlier: bool) -> list[ClipPaths]:
    listed = [frame for clip in clips for frame in clip]
    own_names = prediction_names(listed, data_root)
    if keep_earlier:
        own_names = names_in_use(folder / "gray", listed, own_names, [data_root / frame.image for frame in listed])
    names = iter(own_names)
    plan, videos = [], set()
    for clip in clips:
        own = [next(names) for _ in clip]
        frames = [
            FramePaths(data_root / frame.image, folder / "gray" / f"{name}.png", folder / "color" / f"{name}.png")
            for frame, name in zip(clip, own, strict=True)
        ]
        video = folder / "mp4" / f"{own[0]}.mp4"
        if video in videos:
            raise UserError(f"two clips begin with {clip[0].image}, and a video is called after its first frame")
        videos.add(video)
        plan.append(ClipPaths(frames, video))
    return plan


def _predict_clips(
    clips: list[ClipPaths], predictor: Predictor, palette: np.ndarray, settings: Settings, made_with: str
) -> tuple[int, int]:
    """Decode ahead, predict, write behind; returns how many frames were predicted and how many read again."""
    predicted = reread = 0
    files = [frame for clip in clips for frame in clip.frames]
    with ExitStack() as stack:
        # The encoder's queue closes the videos while the network goes on; after an error none of them must appear.
        videos = stack.enter_context(ExitStack())
        pictures = stack.enter_context(TaskQueue(workers=WRITERS, pending=2 * WRITERS))
        encoder = stack.enter_context(TaskQueue(workers=1, pending=TO_ENCODE))
        loaded = stack.enter_context(
            closing(ordered_map(partial(_load, made_with), files, workers=DECODERS, ahead=AHEAD))
        )
        bar = stack.enter_context(tqdm(total=len(files), desc="predict", unit="frame", disable=distributed.rank() > 0))
        for clip in clips:
            # A kill after the last frame must not leave the video of earlier predictions beside the new ones.
            clip.video.unlink(missing_ok=True)
            clip.note.unlink(missing_ok=True)
            video = Mp4Writer(clip.video, settings.TEST.fps)
            videos.callback(video.discard)
            for frames in _batches(loaded, len(clip.frames), settings.TEST.batch_size_gen):
                todo = [frame for frame in frames if frame.ids is None]
                ids = iter(predictor([frame.rgb for frame in todo]) if todo else ())
                for frame in frames:
                    frame_ids = frame.ids
                    if frame_ids is None:
                        frame_ids = next(ids)
                        pictures.put(_write_pictures, frame.files, frame_ids, palette, frame.origin.text)
                    encoder.put(encode_overlay, video, frame.rgb, frame_ids, palette)
                predicted, reread = predicted + len(todo), reread + len(frames) - len(todo)
                bar.update(len(frames))
            encoder.put(_finish, clip, video, made_with, settings.TEST.fps)
    return predicted, reread


def _finish(clip: ClipPaths, video: Mp4Writer, made_with: str, fps: float) -> None:
    video.close()
    write_text(clip.note, json.dumps(clip.shown(made_with, fps)) + "\n")


def _batches(loaded: Iterator[LoadedFrame], count: int, size: int) -> Iterator[list[LoadedFrame]]:
    """The next ``count`` frames, which form a clip, in groups of ``size``.

    Raises:
        UserError: frames of different sizes.
    """
    shape = None
    for start in range(0, count, size):
        frames = [next(loaded) for _ in range(min(size, count - start))]
        for frame in frames:
            shape = shape or frame.rgb.shape
            if frame.rgb.shape != shape:
                got, expected = (f"{w}x{h}" for h, w, _ in (frame.rgb.shape, shape))
                raise UserError(f"{frame.files.image} is {got}, the clip's first frame is {expected}")
        yield frames


def _load(made_with: str, files: FramePaths) -> LoadedFrame:
    origin = Origin.of([files.image], made_with)
    rgb = read_image(files.image)
    if not files.done(made_with):
        return LoadedFrame(files, rgb, None, origin)
    try:
        ids = read_label(files.gray)
    except UserError:  # damaged, or not a label map: predicted again
        return LoadedFrame(files, rgb, None, origin)
    return LoadedFrame(files, rgb, ids if ids.shape == rgb.shape[:2] else None, origin)


def _write_pictures(files: FramePaths, ids: np.ndarray, palette: np.ndarray, origin: str) -> None:
    encoded = encode_ids(ids)
    write_ids(files.gray, encoded, origin=origin)
    write_ids(files.color, encoded, palette=palette, origin=origin)


def _ends_as_png(path: Path) -> bool:
    with open(path, "rb") as stream:
        stream.seek(-len(PNG_END), os.SEEK_END)
        return stream.read() == PNG_END
