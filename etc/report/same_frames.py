"""Runs that call the same frames by other names: of a video, and of a folder that holds the frames of that video."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tqdm import tqdm

from etc.config import with_changes
from etc.config.schema import Settings
from etc.data.images import read_image
from etc.data.labels import label_table_of, read_train_ids
from etc.data.lists import Clip, Frame, frames_sha256
from etc.data.sources import clips_to_score
from etc.errors import UserError
from etc.evaluate.results import ClipScores

NamedScores = tuple[str, ClipScores]  # what the user calls a run, and its scores


def need_a_look(one: ClipScores, other: ClipScores) -> bool:
    """Whether two scorings of ``TEST.frames`` must be compared by their frames, as names or sizes of files differ."""
    if not (one.settings.TEST.frames and other.settings.TEST.frames):
        return False
    sizes_differ = None not in (one.frames_sha256, other.frames_sha256) and one.frames_sha256 != other.frames_sha256
    return one.clips != other.clips or sizes_differ


def lengths(scores: ClipScores) -> list[int]:
    """Pairs of each clip."""
    return [len(clip.pairs) for clip in scores.first.clips]


def settings_of_frames(own: ClipScores, first: ClipScores, settings: Settings) -> Settings:
    """The settings in which a run's predictions are found: with its own frames, where it calls them otherwise.

    Where it calls its clips as the first run does, the very settings that are given.
    """
    if own.clips == first.clips:
        return settings
    test = own.settings.TEST
    return with_changes(settings, TEST={"frames": test.frames, "labels": test.labels})


def check_same_frames(first: NamedScores, run: NamedScores) -> None:
    """Compare the frames of two runs, and their labels, pixel by pixel and in order; names play no part.

    Args:
        first, run: what :func:`need_a_look` says so of.

    Raises:
        UserError: the first frames that differ; frames that are no longer those that were scored.
    """
    pairs = list(zip(_whole(*first), _whole(*run), strict=False))
    again = "score both with tool/eval_tc.py on the same frames and labels"
    if any(len(one) != len(other) for one, other in pairs):
        raise UserError(f"{first[0]} and {run[0]} were scored on clips of different lengths: {again}")
    frames = [both for one, other in pairs for both in zip(one, other, strict=True)]
    for one, other in tqdm(frames, desc="same frames", unit="frame", leave=False):
        what = _difference((one, first[1].settings), (other, run[1].settings))
        if what is not None:
            raise UserError(
                f"{first[0]} and {run[0]} were scored on different {what}: those of {one.image} and {other.image} are "
                f"not the same, pixel by pixel: {again}"
            )


def _whole(name: str, scores: ClipScores) -> list[Clip]:
    """The clips of a scoring as they are now."""
    clips, root = clips_to_score(scores.settings), scores.settings.DATA.data_root
    now = frames_sha256((frame for clip in clips for frame in clip), root)
    if scores.frames_sha256 not in (None, now):
        raise UserError(
            f"TEST.frames {scores.settings.TEST.frames} no longer holds the frames and labels that {name} was scored "
            "on: score it again with tool/eval_tc.py"
        )
    return clips


def _difference(one: tuple[Frame, Settings], other: tuple[Frame, Settings]) -> str | None:
    """``frames`` or ``labels``; ``None``: both are the same."""
    a, b = (Path(settings.DATA.data_root) / frame.image for frame, settings in (one, other))
    if a.read_bytes() != b.read_bytes() and not np.array_equal(read_image(a), read_image(b)):
        return "frames"
    mine, theirs = _label(*one), _label(*other)
    if mine is None or theirs is None:
        return None if mine is theirs else "labels"
    return None if np.array_equal(mine, theirs) else "labels"


def _label(frame: Frame, settings: Settings) -> np.ndarray | None:
    if frame.label is None:
        return None
    return read_train_ids(Path(settings.DATA.data_root) / frame.label, label_table_of(settings))
